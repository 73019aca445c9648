#!lua flags=allow-oom
-- Tells the log how far conversations have come in the store; never moves one back.
--
-- KEYS  meta, tops
-- ARGV  generation, then for each conversation: name, seq
--
-- A conversation without history is young: every key ever used in it is in the log's memory, as long as that memory
-- reaches back to its birth. One with history gets birth 0.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return redis.error_reply('STALE the log is in another generation')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV, 2 do
  local top = redis.call('HGET', KEYS[2], ARGV[i])
  local seq = top and tonumber(string.match(top, '^%d+')) or -1
  if tonumber(ARGV[i + 1]) > seq then
    local born = ARGV[i + 1] == '0' and now or 0
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1] .. ' ' .. string.format('%d', born))
  end
end
return 1
