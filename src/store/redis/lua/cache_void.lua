-- Cached values that were made before the last voiding of one of their tags count no more. Repeated it voids once more.
-- KEYS: 1 hash: by tag the number of its last voiding; '~e' which counting this is, '~n' its last number, '~f' up to this
--   number it is not known any more which tags were voided: all were
-- ARGV: 1 a name, if a counting begins now  2 tags at most  3 kept for, ms  then tags
-- -> {counting, last number}
local e=redis.call('HGET',KEYS[1],'~e')
if not e then
  e=ARGV[1]
  redis.call('HSET',KEYS[1],'~e',e,'~n',0,'~f',0)
end
local n=tonumber(redis.call('HGET',KEYS[1],'~n'))
if #ARGV>3 then
  n=redis.call('HINCRBY',KEYS[1],'~n',1)
  for i=4,#ARGV do redis.call('HSET',KEYS[1],ARGV[i],n) end
  if redis.call('HLEN',KEYS[1])>3+tonumber(ARGV[2]) then
    redis.call('DEL',KEYS[1])
    redis.call('HSET',KEYS[1],'~e',e,'~n',n,'~f',n)
  end
end
local t=redis.call('TIME')
redis.call('PEXPIREAT',KEYS[1],string.format('%.0f',t[1]*1000+math.floor(t[2]/1000)+tonumber(ARGV[3])))
return {e,n}
