#!lua flags=allow-oom
-- Carries out one command on one key although memory is at its limit: what keeps the service alive and drains it must
-- not wait for the room that only draining makes. Never for what publishers bring.
--
-- KEYS  the key
-- ARGV  the command, then what follows the key
return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
