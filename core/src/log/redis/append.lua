#!lua
-- Appends drafts of one partition as one stream entry, or says for each why not.
--
-- KEYS  log, meta, tops, identities (new), identities (old)
-- ARGV  'arm', or: generation, last offset the caller has seen, leeway ms, number of conversations, their names,
--       for all drafts together: conversation of each (one byte, counted from 1), minted ms of each, events as lines,
--       then the identity of each, then message id and body digest of each
-- Reply {offset before the first, answer, …}; an answer is a seq, the first event's particulars, 0 (unverified)
--       or -1 (unhydrated).
--
-- The entry is {seqs, events}: a number for each line, 0 for a line that was not accepted. The lines stay one string
-- on their way through here; taking them apart would cost more than everything else.
--
-- A script is isolated but not rolled back: everything is decided before the first write, and the write that could
-- fail goes first.
--
-- A server that was started anew knows no scripts, so the first call of this one must be an EVAL, and that is made with
-- 'arm': it finds out whether the log was ever declared sound under this run of the server, and freezes it if not. No
-- append slips in between a restart and its discovery, and none pays for the question. Each partition has a script of
-- its own for it, by a comment with its number.
if ARGV[1] == 'arm' then
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local sound = redis.call('HMGET', KEYS[2], 'run', 'generation')
  if sound[1] == run then
    return 1
  end
  if sound[2] then
    redis.call('HSET', KEYS[2], 'frozen', sound[2])
    redis.call('HDEL', KEYS[2], 'generation')
  end
  return 0
end
local generation, seen, leeway, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local meta = redis.call('HMGET', KEYS[2], 'generation', 'last', 'known_since')
if meta[1] ~= generation then
  return redis.error_reply('STALE the log is in generation ' .. tostring(meta[1]))
end
local last, known_since = tonumber(meta[2]), tonumber(meta[3])
if last < seen then
  return redis.error_reply('STALE the log was set back')
end

-- The field without a name tells whether the tops are all there.
local tops = redis.call('HMGET', KEYS[3], '', unpack(ARGV, 5, 4 + known))
if not tops[1] then
  return redis.error_reply('STALE the conversations are gone')
end
local seqs, born = {}, {}
for c = 1, known do
  if tops[c + 1] then
    local seq, ms = string.match(tops[c + 1], '^(%d+) (%d+)$')
    seqs[c], born[c] = tonumber(seq), tonumber(ms)
  end
end

local at = 5 + known
local conversations, mints, events = ARGV[at], ARGV[at + 1], ARGV[at + 2]
local count = #conversations
local identity, particular = at + 2, at + 2 + count
local new = redis.call('HMGET', KEYS[4], unpack(ARGV, identity + 1, identity + count))
local old = {}
if redis.call('EXISTS', KEYS[5]) == 1 then
  old = redis.call('HMGET', KEYS[5], unpack(ARGV, identity + 1, identity + count))
end

-- Read only when a conversation has history, which is when it matters.
local minted
local function minted_of(i)
  if not minted then
    minted = {}
    for ms in string.gmatch(mints, '%d+') do
      minted[#minted + 1] = tonumber(ms)
    end
  end
  return minted[i]
end

local answers, numbers, remembered, within, held, changed = {last}, {}, {}, {}, {}, {}
local offset = last
for i = 1, count do
  local c = string.byte(conversations, i)
  local id = ARGV[identity + i]
  local prior = new[i] or old[i] or within[id]
  numbers[i] = 0
  if held[c] then
    answers[i + 1] = held[c]
  elseif prior then
    answers[i + 1] = prior
  elseif not seqs[c] then
    held[c] = -1
    answers[i + 1] = -1
  elseif born[c] < known_since and minted_of(i) < known_since + leeway then
    held[c] = 0
    answers[i + 1] = 0
  else
    local seq = seqs[c] + 1
    offset = offset + 1
    seqs[c] = seq
    changed[c] = true
    local particulars = seq .. ' ' .. generation .. '-' .. offset .. ' ' .. ARGV[particular + i]
    within[id] = particulars
    remembered[#remembered + 1] = id
    remembered[#remembered + 1] = particulars
    numbers[i] = seq
    answers[i + 1] = seq
  end
end

if offset > last then
  local id = generation .. '-' .. offset
  local added = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', id, 'seqs', table.concat(numbers, ' '), 'events', events)
  if not added or type(added) == 'table' and string.find(added.err or '', 'smaller') then
    return redis.error_reply('STALE the stream is not the one this was decided about')
  elseif type(added) == 'table' and added.err then
    return added
  end
  local moved = {}
  for c in pairs(changed) do
    moved[#moved + 1] = ARGV[4 + c]
    moved[#moved + 1] = seqs[c] .. ' ' .. born[c]
  end
  redis.call('HSET', KEYS[3], unpack(moved))
  redis.call('HSET', KEYS[4], unpack(remembered))
  redis.call('HSET', KEYS[2], 'last', offset)
end
return answers
