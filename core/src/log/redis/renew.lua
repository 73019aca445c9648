#!lua flags=allow-oom
-- Lets one partition go on in a new generation, if it still looks as it was surveyed.
--
-- KEYS  log, meta, tops, identities (new), identities (old), then the lease of each role
-- ARGV  what the survey saw: run id, generation ('' if none), id of the newest entry ('' if none);
--       then generation, base, fence, 1 if tops and identities are kept, position stored, then the roles
-- Reply 1, or 0 when somebody was faster
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local meta = redis.call('HMGET', KEYS[2], 'generation', 'frozen')
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if run ~= ARGV[1] or (meta[1] or meta[2] or '') ~= ARGV[2] or (newest[1] and newest[1][1] or '') ~= ARGV[3] then
  return 0
end
local generation, base, fence, stored = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[8]

if ARGV[7] ~= '1' then
  -- What the store knows of conversations and keys counts from here on.
  local time = redis.call('TIME')
  local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('UNLINK', KEYS[3], KEYS[4], KEYS[5])
  redis.call('HSET', KEYS[2], 'known_since', now, 'new_since', now, 'old_until', base)
end
redis.call('HSET', KEYS[3], '', generation)
redis.call('HSET', KEYS[2], 'generation', generation, 'base', base, 'last', base, 'newest', ARGV[3],
  'run', run)
redis.call('HDEL', KEYS[2], 'frozen')

for i = 9, #ARGV do
  local role, lease = ARGV[i], KEYS[i - 3]
  -- A group that is there goes on where it was, with what it had pending, or else after what was acknowledged.
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], role, stored, 'MKSTREAM')
  if not (type(made) == 'table' and made.err) or redis.call('HEXISTS', KEYS[2], 'at:' .. role) == 0 then
    redis.call('HSET', KEYS[2], 'at:' .. role, stored)
  elseif redis.call('XPENDING', KEYS[1], role)[1] == 0 then
    redis.call('XGROUP', 'SETID', KEYS[1], role, redis.call('HGET', KEYS[2], 'at:' .. role))
  end
  local token = math.max(tonumber(redis.call('HGET', lease, 'token') or '0'), fence)
  redis.call('HSET', lease, 'token', string.format('%d', token), 'beat', 0)
  redis.call('HDEL', lease, 'owner')
end
return 1
