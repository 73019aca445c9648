#!lua flags=allow-oom
-- Beats for a lease, or gives it back, if it still holds.
--
-- KEYS  lease
-- ARGV  token, 'beat' or 'release'
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
if redis.call('HEXISTS', KEYS[1], 'owner') == 0 then
  return 0
end
if ARGV[2] == 'release' then
  redis.call('HDEL', KEYS[1], 'owner')
end
redis.call('HINCRBY', KEYS[1], 'beat', 1)
return 1
