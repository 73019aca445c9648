#!lua flags=allow-oom
-- Adds an instance to the listeners of topics, or takes it away.
--
-- KEYS  interest
-- ARGV  'join' or 'leave', instance, then the topics
local join = ARGV[1] == 'join'
for i = 3, #ARGV do
  local before = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  local others = {}
  for instance in string.gmatch(before, '%S+') do
    if instance ~= ARGV[2] then
      others[#others + 1] = instance
    end
  end
  if join then
    others[#others + 1] = ARGV[2]
  end
  if #others > 0 then
    redis.call('HSET', KEYS[1], ARGV[i], table.concat(others, ' '))
  else
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return 1
