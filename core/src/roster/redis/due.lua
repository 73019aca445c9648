#!lua flags=allow-oom
-- Hands out users whose grace is over, and asks for them again later unless somebody settles them.
--
-- KEYS  due, left
-- ARGV  how many at most, after how many milliseconds to ask again
-- Returns the users, each followed by when it left.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local handed = {}
for _, user in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  redis.call('ZADD', KEYS[1], now + ARGV[2], user)
  handed[#handed + 1] = user
  handed[#handed + 1] = redis.call('HGET', KEYS[2], user) or tostring(now)
end
return handed
