-- Reports on a result. Later fence, then later revision wins; the first terminal report stands for ever, and one that was
-- taken before and is put back wins over whatever is not terminal.
-- KEYS: 1 result (hash: f fence, r revision, k rank, p payload)
-- ARGV: 1 fence  2 revision  3 rank, 9 is terminal  4 payload  5 kept for, ms  6 'again': it was taken before
-- -> {'OK'|'STALE'|'FINAL', fence, revision}
local c=redis.call('HMGET',KEYS[1],'f','r','k')
if c[3]=='9' then return {'FINAL',c[1],c[2]} end
-- As decimal texts: numbers of Lua are exact up to 2^53 only.
local function before(a,b) return #a<#b or (#a==#b and a<b) end
local back=ARGV[6]=='again' and ARGV[3]=='9'
if c[1] and not back and (before(ARGV[1],c[1]) or (ARGV[1]==c[1] and not before(c[2],ARGV[2]))) then return {'STALE',c[1],c[2]} end
redis.call('HSET',KEYS[1],'f',ARGV[1],'r',ARGV[2],'k',ARGV[3],'p',ARGV[4])
local t=redis.call('TIME')
local now=t[1]*1000+math.floor(t[2]/1000)
redis.call('PEXPIREAT',KEYS[1],string.format('%.0f',now+tonumber(ARGV[5])))
return {'OK',ARGV[1],ARGV[2]}
