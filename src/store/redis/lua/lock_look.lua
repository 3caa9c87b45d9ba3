-- Where a lock stands.
-- KEYS: 1 lock (as lock_take has it)
-- -> {fence that was given last, 0: none is known; ms that its holder still has}
local c=redis.call('HMGET',KEYS[1],'t','f','x')
local t=redis.call('TIME')
local now=t[1]*1000+math.floor(t[2]/1000)
local left=0
if c[1] and c[1]~='' then left=math.max(tonumber(c[3])-now,0) end
return {tonumber(c[2] or '0'),left}
