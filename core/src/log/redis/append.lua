#!lua
-- Appends drafts of one partition as one stream entry, or says for each why not.
--
-- KEYS  log, meta, tops, identities (new), identities (old)
-- ARGV  generation, leeway ms, number of conversations, their names, then six values for each draft:
--       conversation (index), identity, minted ms, header tail, data, message id and body digest
-- Reply {offset before the first, answer, …}; an answer is a seq, the first event's particulars, 0 (unverified)
--       or -1 (unhydrated).
--
-- A script is isolated but not rolled back: everything is decided before the first write, and the write that could
-- fail goes first.
local generation, leeway, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local meta = redis.call('HMGET', KEYS[2], 'generation', 'last', 'known_since')
if meta[1] ~= generation then
  return redis.error_reply('STALE the log is in generation ' .. tostring(meta[1]))
end
local last, known_since = tonumber(meta[2]), tonumber(meta[3])

local tops = redis.call('HMGET', KEYS[3], unpack(ARGV, 4, 3 + known))
local seqs, born = {}, {}
for c = 1, known do
  if tops[c] then
    local seq, ms = string.match(tops[c], '^(%d+) (%d+)$')
    seqs[c], born[c] = tonumber(seq), tonumber(ms)
  end
end

local first = 4 + known
local count = (#ARGV - first + 1) / 6
local identities = {}
for i = 1, count do
  identities[i] = ARGV[first + 6 * (i - 1) + 1]
end
local new = redis.call('HMGET', KEYS[4], unpack(identities))
local old = redis.call('HMGET', KEYS[5], unpack(identities))

local answers, fields, remembered, within, held, changed = {last}, {}, {}, {}, {}, {}
local offset = last
for i = 1, count do
  local at = first + 6 * (i - 1)
  local c = tonumber(ARGV[at])
  local prior = new[i] or old[i] or within[identities[i]]
  if prior then
    answers[i + 1] = prior
  elseif held[c] then
    answers[i + 1] = held[c]
  elseif not seqs[c] then
    held[c] = -1
    answers[i + 1] = -1
  elseif born[c] < known_since and tonumber(ARGV[at + 2]) < known_since + leeway then
    held[c] = 0
    answers[i + 1] = 0
  else
    offset = offset + 1
    seqs[c] = seqs[c] + 1
    changed[c] = true
    fields[#fields + 1] = '1 ' .. seqs[c] .. ' ' .. ARGV[at + 3]
    fields[#fields + 1] = ARGV[at + 4]
    local particulars = seqs[c] .. ' ' .. generation .. '-' .. offset .. ' ' .. ARGV[at + 5]
    within[identities[i]] = particulars
    remembered[#remembered + 1] = identities[i]
    remembered[#remembered + 1] = particulars
    answers[i + 1] = seqs[c]
  end
end

if offset > last then
  redis.call('XADD', KEYS[1], generation .. '-' .. offset, unpack(fields))
  local moved = {}
  for c in pairs(changed) do
    moved[#moved + 1] = ARGV[3 + c]
    moved[#moved + 1] = seqs[c] .. ' ' .. born[c]
  end
  redis.call('HSET', KEYS[3], unpack(moved))
  redis.call('HSET', KEYS[4], unpack(remembered))
  redis.call('HSET', KEYS[2], 'last', offset)
end
return answers
