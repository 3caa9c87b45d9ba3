-- A step on a lock. Fences strictly rise, also where the last one is forgotten: they are times.
-- KEYS: 1 lock (hash: t token, '' when nobody holds it; f fence; x held until, ms since the epoch)
-- ARGV: 1 token  2 held for, ms  3 'take'|'renew'|'drop'  4 a new fence is not below this
-- -> {1, fence} | {0, ms that somebody else still has}
local c=redis.call('HMGET',KEYS[1],'t','f','x')
local t=redis.call('TIME')
local us=t[1]*1000000+t[2]
local now=math.floor(us/1000)
local left=0
if c[1] and c[1]~='' then left=math.max(tonumber(c[3])-now,0) end
local mine=left>0 and c[1]==ARGV[1]
if not mine and (left>0 or ARGV[3]~='take') then return {0,left} end
local fence=mine and tonumber(c[2]) or math.max(tonumber(c[2] or '0')+1,us,tonumber(ARGV[4]))
local token,ends=ARGV[1],now+tonumber(ARGV[2])
if ARGV[3]=='drop' then token='' ends=now end
redis.call('HSET',KEYS[1],'t',token,'f',string.format('%.0f',fence),'x',string.format('%.0f',ends))
-- The fence outlives the lock.
redis.call('PEXPIREAT',KEYS[1],string.format('%.0f',now+604800000))
return {1,fence}
