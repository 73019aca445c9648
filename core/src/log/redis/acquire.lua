#!lua flags=allow-oom
-- Takes a lease that still looks as it was seen. One without a token was deleted behind our back: its tokens would begin
-- anew, below those the store has seen, so nobody takes it until a new generation has raised them.
--
-- KEYS  lease
-- ARGV  owner, token seen, beat seen
-- Reply the new token, or false
local lease = redis.call('HMGET', KEYS[1], 'token', 'beat')
if lease[1] ~= ARGV[2] or (lease[2] or '0') ~= ARGV[3] then
  return false
end
local token = string.format('%d', tonumber(ARGV[2]) + 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', token, 'beat', 0)
return token
