#!lua flags=allow-oom
-- Makes users without a connection departing, unless they are already.
--
-- KEYS  due, left, then the connections of each user
-- ARGV  grace in milliseconds, then the users, each followed by how many milliseconds ago it left
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 3, #KEYS do
  local user, left = ARGV[2 * i - 4], now - ARGV[2 * i - 3]
  if redis.call('EXISTS', KEYS[i]) == 0 and redis.call('HSETNX', KEYS[2], user, left) == 1 then
    redis.call('ZADD', KEYS[1], math.max(left + ARGV[1], now), user)
  end
end
return 1
