-- The value of a field that is set once; the one that stands.
-- KEYS: 1 hash
-- ARGV: 1 field  2 value
local v=redis.call('HGET',KEYS[1],ARGV[1])
if v then return v end
redis.call('HSET',KEYS[1],ARGV[1],ARGV[2])
return ARGV[2]
