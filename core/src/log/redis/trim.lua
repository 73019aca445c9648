#!lua flags=allow-oom
-- Removes what every role has acknowledged, and forgets identities the store has by then. The only script that removes.
--
-- KEYS  log, meta, lease, identities (new), identities (old)
-- ARGV  token, records to keep, how long identities stay new (ms), how many may be new
-- Reply number of entries removed, or -1 when the lease is lost
if redis.call('HGET', KEYS[3], 'token') ~= ARGV[1] then
  return -1
end
local meta = {}
local flat = redis.call('HGETALL', KEYS[2])
for i = 1, #flat, 2 do
  meta[flat[i]] = flat[i + 1]
end
local generation, last = meta['generation'], tonumber(meta['last'])

-- The low-water mark: no role still needs anything at or below it.
local low = last
for field, position in pairs(meta) do
  if string.sub(field, 1, 3) == 'at:' then
    low = math.min(low, tonumber(string.match(position, '%d+$')))
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local size = redis.call('HLEN', KEYS[4])
local aged = now - tonumber(meta['new_since']) > tonumber(ARGV[3]) or size > tonumber(ARGV[4])
if aged and low >= tonumber(meta['old_until']) and (size > 0 or redis.call('EXISTS', KEYS[5]) == 1) then
  redis.call('UNLINK', KEYS[5])
  if size > 0 then
    redis.call('RENAME', KEYS[4], KEYS[5])
  end
  redis.call('HSET', KEYS[2], 'old_until', last, 'known_since', meta['new_since'],
    'new_since', string.format('%d', now))
end

-- The newest entry always stays: an empty stream can then only mean loss.
local cut = math.min(low, last - math.max(tonumber(ARGV[2]), 1))
if cut <= 0 then
  return 0
end
-- An id of the present generation lies behind every entry of an earlier one, whatever its offset.
local oldest = generation
if generation ~= '1' then
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
  oldest = first[1] and string.match(first[1][1], '^%d+') or generation
end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', oldest .. '-' .. string.format('%d', cut + 1))
