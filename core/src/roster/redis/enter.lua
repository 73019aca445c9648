#!lua flags=allow-oom
-- Enters a connection among those of one owner, a user or an address, unless there are too many.
--
-- KEYS  connections of the owner, what the instance has entered, and for users: due, left
-- ARGV  connection, what to keep of it, owner, the most there may be
-- Returns how many others there are, or -1 if there are too many, and whether the owner was departing.
local others = redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], ARGV[1])
if others >= tonumber(ARGV[4]) then
  return {-1, 0}
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
local returned = 0
if KEYS[3] then
  returned = redis.call('ZREM', KEYS[3], ARGV[3])
  redis.call('HDEL', KEYS[4], ARGV[3])
end
return {others, returned}
