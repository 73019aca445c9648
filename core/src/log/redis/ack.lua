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
redis.call('HSET', KEYS[2], 'at:' .. ARGV[2], ARGV[3])
return 1
