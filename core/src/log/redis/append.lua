#!lua
-- Appends drafts of one partition as one stream entry, or says for each why not.
--
-- KEYS  log, meta, tops, identities (new), identities (old)
-- ARGV  'arm', or: generation, last offset the caller has seen, leeway ms, number of conversations, their names,
--       for all drafts together: conversation of each (one byte, counted from 1), minted ms of each, events as lines,
--       then the identity of each, then its particulars: place among those of its conversation, place among all (two
--       bytes each, counted from 1), message id, body digest
-- Reply {offset before the first, answer, …}; an answer is a seq, the first event's particulars, 0 (unverified)
--       or -1 (unhydrated).
--
-- The entry is {lines, firsts, events}: the conversation of each line as above, 0 for one that was not accepted; the first
-- number given in each conversation; the events. All of it stays as it came wherever every line is accepted: taking
-- events apart, or writing numbers out for each of them, would cost more than everything else.
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

-- What the places in particulars count from. A line that is not accepted has a place and takes no number.
local from, passed, passed_of, prefixes = {}, 0, {}, {}
local function prefix_of(c)
  prefixes[c] = string.format('%d %s %d ', from[c] - (passed_of[c] or 0), generation, last - passed)
  return prefixes[c]
end

local answers, remembered, within, held, lines = {last}, {}, {}, {}, {}
local offset = last
for i = 1, count do
  local c = string.byte(conversations, i)
  local id = ARGV[identity + i]
  local refused = held[c] or new[i] or old[i] or within[id]
  if not refused and not seqs[c] then
    refused, held[c] = -1, -1
  elseif not refused and born[c] < known_since and minted_of(i) < known_since + leeway then
    refused, held[c] = 0, 0
  end
  if refused then
    answers[i + 1] = refused
    lines[i] = true
    passed, passed_of[c], prefixes = passed + 1, (passed_of[c] or 0) + 1, {}
  else
    from[c] = from[c] or seqs[c]
    seqs[c] = seqs[c] + 1
    offset = offset + 1
    local particulars = (prefixes[c] or prefix_of(c)) .. ARGV[particular + i]
    within[id] = particulars
    remembered[#remembered + 1] = id
    remembered[#remembered + 1] = particulars
    answers[i + 1] = seqs[c]
  end
end

if offset > last then
  if passed > 0 then
    for i = 1, count do
      lines[i] = lines[i] and '\0' or string.sub(conversations, i, i)
    end
    conversations = table.concat(lines)
  end
  local firsts = {}
  for c = 1, known do
    firsts[c] = from[c] and from[c] + 1 or 0
  end
  local added = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', generation .. '-' .. offset, 'lines', conversations,
    'firsts', table.concat(firsts, ' '), 'events', events)
  if not added or type(added) == 'table' and string.find(added.err or '', 'smaller') then
    return redis.error_reply('STALE the stream is not the one this was decided about')
  elseif type(added) == 'table' and added.err then
    return added
  end
  local moved = {}
  for c in pairs(from) do
    moved[#moved + 1] = ARGV[4 + c]
    moved[#moved + 1] = seqs[c] .. ' ' .. born[c]
  end
  redis.call('HSET', KEYS[3], unpack(moved))
  redis.call('HSET', KEYS[4], unpack(remembered))
  redis.call('HSET', KEYS[2], 'last', offset)
end
return answers
