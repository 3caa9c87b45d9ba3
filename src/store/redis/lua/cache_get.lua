-- A cached value and how long it counts. Writes nothing.
-- KEYS: 1 value
-- -> {value, ms left, -1: for ever} | {}
local v=redis.call('GET',KEYS[1])
if not v then return {} end
return {v,redis.call('PTTL',KEYS[1])}
