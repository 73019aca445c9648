#!lua flags=allow-oom
-- Acknowledges entries of one partition for one role, if the lease still holds.
--
-- KEYS  log, meta, lease
-- ARGV  token, role, position, then the entry ids
if redis.call('HGET', KEYS[3], 'token') ~= ARGV[1] then
  return 0
end
for i = 4, #ARGV, 500 do
  redis.call('XACK', KEYS[1], ARGV[2], unpack(ARGV, i, math.min(i + 499, #ARGV)))
end
-- A position already passed is acknowledged again without harm; offsets go on from generation to generation.
local offset = tonumber(string.match(ARGV[3], '%d+$'))
local passed = tonumber(string.match(redis.call('HGET', KEYS[2], 'at:' .. ARGV[2]) or '0-0', '%d+$'))
if offset >= passed then
  redis.call('HSET', KEYS[2], 'at:' .. ARGV[2], ARGV[3])
end
return 1
