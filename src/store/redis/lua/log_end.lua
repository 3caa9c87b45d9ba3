-- Lets the log of an ended session go. What is left is a mark that is no origin's: nothing is appended any more.
-- KEYS: 1 log  2 marks
-- ARGV: 1 the mark goes then, ms since the epoch
-- -> 1: it went now, 0: it had gone
if redis.call('HEXISTS',KEYS[2],'~')==1 then return 0 end
-- The first write is one that a full Redis refuses, so that all of it happens or nothing.
redis.call('HSET',KEYS[2],'~','')
for _,f in ipairs(redis.call('HKEYS',KEYS[2])) do if f~='~' then redis.call('HDEL',KEYS[2],f) end end
redis.call('DEL',KEYS[1])
redis.call('PEXPIREAT',KEYS[2],ARGV[1])
return 1
