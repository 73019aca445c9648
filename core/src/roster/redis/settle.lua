#!lua flags=allow-oom
-- Forgets departures that have been told, unless their users left once more meanwhile.
--
-- KEYS  due, left, then the connections of each user
-- ARGV  users, each followed by when it left
-- Returns the users who came back.
local back = {}
for i = 3, #KEYS do
  local user, told = ARGV[2 * i - 5], ARGV[2 * i - 4]
  local left = redis.call('HGET', KEYS[2], user)
  if not left or left == told then
    redis.call('ZREM', KEYS[1], user)
    redis.call('HDEL', KEYS[2], user)
  end
  if redis.call('EXISTS', KEYS[i]) == 1 then
    back[#back + 1] = user
  end
end
return back
