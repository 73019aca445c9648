#!lua flags=allow-oom
-- Takes connections out; a user of whom none is left is departing.
--
-- KEYS  what the instance has entered, due, left, then for each connection those of its owner
-- ARGV  milliseconds since they ended, grace in milliseconds or -1 where owners are addresses, then for each: connection,
--       owner
-- Returns for each that was there: what was kept of it, how many others there are, when it ended.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left, grace = now - ARGV[1], tonumber(ARGV[2])
local removed = {}
for i = 4, #KEYS do
  local connection, owner = ARGV[2 * i - 5], ARGV[2 * i - 4]
  local entry = redis.call('HGET', KEYS[i], connection)
  redis.call('HDEL', KEYS[1], connection)
  if entry then
    redis.call('HDEL', KEYS[i], connection)
    local others = redis.call('HLEN', KEYS[i])
    if others == 0 and grace >= 0 then
      redis.call('ZADD', KEYS[2], math.max(left + grace, now), owner)
      redis.call('HSET', KEYS[3], owner, left)
    end
    removed[#removed + 1] = {entry, others, left}
  end
end
return removed
