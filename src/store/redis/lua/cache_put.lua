-- Caches a value under the moment of its making (16 hexadecimal digits, kept in front of it): what was made last stands.
-- KEYS: 1 value
-- ARGV: 1 when it was made  2 its time is over then, ms  3 the value; '': what was made up to then is forgotten
-- -> 1: done | 0: what stands was made later, or there is nothing to do
local at=redis.call('GETRANGE',KEYS[1],0,15)
if ARGV[3]=='' then
  if at=='' or at>ARGV[1] then return 0 end
  redis.call('DEL',KEYS[1])
  return 1
end
local t=redis.call('TIME')
if at>=ARGV[1] or tonumber(ARGV[2])<=t[1]*1000+math.floor(t[2]/1000) then return 0 end
redis.call('SET',KEYS[1],ARGV[1]..ARGV[3],'PXAT',ARGV[2])
return 1
