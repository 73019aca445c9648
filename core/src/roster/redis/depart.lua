#!lua flags=allow-oom
-- Makes users without a connection departing, unless they are already.
--
-- KEYS  due, left, then the connections of each user
-- ARGV  milliseconds since they left, grace in milliseconds, then the users
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = now - ARGV[1]
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 and redis.call('HSETNX', KEYS[2], ARGV[i], left) == 1 then
    redis.call('ZADD', KEYS[1], math.max(left + ARGV[2], now), ARGV[i])
  end
end
return 1
