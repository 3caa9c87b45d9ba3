-- A sign of life of an instance, and who else gave one.
-- KEYS: 1 instances (hash: instance -> counts until, ms since the epoch ':' what it says of itself)
-- ARGV: 1 instance  2 what it says of itself, '' when it leaves  3 counts for, ms
-- -> {instance, what it says, …}
local t=redis.call('TIME')
local now=t[1]*1000+math.floor(t[2]/1000)
local ttl=tonumber(ARGV[3])
if ARGV[2]=='' then
  redis.call('HDEL',KEYS[1],ARGV[1])
else
  redis.call('HSET',KEYS[1],ARGV[1],string.format('%.0f',now+ttl)..':'..ARGV[2])
  redis.call('PEXPIRE',KEYS[1],ARGV[3])
end
local all=redis.call('HGETALL',KEYS[1])
local out={}
for i=1,#all,2 do
  local c=string.find(all[i+1],':',1,true)
  if c and tonumber(string.sub(all[i+1],1,c-1))>now then
    out[#out+1]=all[i]; out[#out+1]=string.sub(all[i+1],c+1)
  else
    redis.call('HDEL',KEYS[1],all[i])
  end
end
return out
