-- The report that stands and how long it is kept. Writes nothing.
-- KEYS: 1 result
-- -> {fence, revision, rank, payload, ms left} | {}
local c=redis.call('HMGET',KEYS[1],'f','r','k','p')
if not c[1] then return {} end
return {c[1],c[2],c[3],c[4],redis.call('PTTL',KEYS[1])}
