#!lua flags=allow-oom
-- Lets one partition take nothing more until it is renewed, if it still is in that generation.
--
-- KEYS  meta
-- ARGV  generation
if redis.call('HGET', KEYS[1], 'generation') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'frozen', ARGV[1])
  redis.call('HDEL', KEYS[1], 'generation')
end
return 1
