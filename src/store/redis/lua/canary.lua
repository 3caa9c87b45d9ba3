-- What tells this data set from another one: a value that stays as long as the data does.
-- KEYS: 1 canary
-- ARGV: 1 the value to set where there is none
-- -> {1, value set} | {0, value found}
local v=redis.call('GET',KEYS[1])
if v then return {0,v} end
redis.call('SET',KEYS[1],ARGV[1])
return {1,ARGV[1]}
