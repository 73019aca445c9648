#!lua flags=allow-oom
-- Looks at one partition for signs that it is not what it was.
--
-- KEYS  log, meta, tops, then the lease of each role
-- ARGV  the roles
-- Reply {run id of this server, generation, the same if frozen, run id the log was last sound under, last offset,
--        base of the generation, id of the newest entry when it began, id of the newest entry, 1 if the tops are there, then for each role 1 if its group is there and knows
--        what it handed out, and its lease has a token}
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local meta = redis.call('HMGET', KEYS[2], 'generation', 'frozen', 'run', 'last', 'base', 'newest')
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local reply = { run }
for i = 1, 6 do
  reply[i + 1] = meta[i] or ''
end
reply[8] = newest[1] and newest[1][1] or ''
reply[9] = redis.call('HEXISTS', KEYS[3], '')
local present = {}
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    -- What was handed out is pending or acknowledged; a consumer that was deleted took what it had pending along.
    local handed, acked = group[8], redis.call('HGET', KEYS[2], 'at:' .. group[2]) or '0-0'
    local forgot = group[6] == 0 and tonumber(string.match(handed, '%d+$')) > tonumber(string.match(acked, '%d+$'))
    present[group[2]] = forgot and 0 or 1
  end
end
for i, role in ipairs(ARGV) do
  local guarded = redis.call('HEXISTS', KEYS[3 + i], 'token')
  reply[9 + i] = guarded == 1 and present[role] or 0
end
return reply
