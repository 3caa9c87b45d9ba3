//! Every bound that is not a setting, each with its reason. Settings carry their defaults in `config`.

use std::time::Duration;

/// A session's token, longest form. Longer strings are not looked at.
pub const MAX_SESSION_ID_BYTES: usize = 160;
/// A task id, longest form. Longer strings are not looked at.
pub const MAX_TASK_ID_BYTES: usize = 160;
/// An event id (`Last-Event-ID`), longest form.
pub const MAX_EVENT_ID_BYTES: usize = 1_536;
/// Origins in one event id. A stream meets at most two new ones (its own and that of broadcasts) whenever one of the
/// instances is replaced.
pub const MAX_CURSOR_PAIRS: usize = 64;
/// Room that event ids have for origins that a connection does not know of when it looks at the log.
pub const CURSOR_ROOM: usize = 8;
/// Origins of which a log retains entries. An event id names those of the session's log and of broadcasts. The room that
/// is left is for what one instance still retains that lags behind another one: what both have cut off is named for a
/// dozen replacements more.
pub const LOG_ORIGINS: usize = 20;
/// JSON nesting that is read. Deeper input is refused before it costs stack.
pub const MAX_JSON_DEPTH: usize = 128;
/// A JSON-RPC request id as JSON text. Ids are kept while a request runs, so they must be small.
pub const MAX_REQUEST_ID_BYTES: usize = 256;
/// Messages in a batch of 2025-03-26.
pub const MAX_BATCH: usize = 100;
/// Tools on one page of `tools/list`: the usual client reads them all into its context.
pub const LIST_PAGE: usize = 200;
/// Commits that wait for the disk. A task that finds the queue full waits for room.
pub const COMMIT_QUEUE: usize = 1_024;
/// Commits that share one fsync.
pub const COMMIT_GROUP: usize = 1_024;
/// A value in one row of the database: a leaf page of sled (16 rows) must stay below a quarter of a 2 MiB segment,
/// else it becomes a blob file that sled never syncs. Longer values are cut into rows of this size.
pub const ROW_VALUE_BYTES: usize = 24 * 1024;
/// Messages of one call that wait to be stored or sent; the tool that produces more waits.
pub const CALL_OUTBOX: usize = 64;
/// Messages that one connection is owed and for which the disk has no room: each may have 64 KiB and more.
pub const UNSTORED: usize = 16;
/// Entries of a stream that are taken from the log for one write to its connection.
pub const STREAM_BATCH: usize = 64;
/// A call with longer parameters is not run again when its process has died, bytes: they would crowd out what its stream says.
pub const CALL_AGAIN_BYTES: usize = 64 * 1024;
/// Calls in flight on one session; more are refused until one ends.
pub const CALLS_PER_SESSION: usize = 256;
/// Open GET streams of one session; the oldest is ended, resumably, when one more comes.
pub const STREAMS_PER_SESSION: usize = 16;
/// Questions to the client that wait for an answer, per session.
pub const ASKS_PER_SESSION: usize = 64;
/// How long a question to the client waits for its answer.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(600);
/// A line that a stdio child prints; a longer one ends the child.
pub const CHILD_LINE_BYTES: usize = 16 * 1024 * 1024;
/// Last lines of a child's stderr that are kept to explain its death.
pub const CHILD_STDERR_LINES: usize = 20;
/// How long a child may take to end after its stdin closed, and again after SIGTERM, before SIGKILL.
pub const CHILD_STOP_STEP: Duration = Duration::from_secs(2);
/// Request headers, bytes of all of them together.
pub const HEADER_BYTES: usize = 32 * 1024;
/// Request headers, number.
pub const HEADER_COUNT: usize = 100;
/// What is read ahead of one HTTP/1 connection, bytes: the pieces in which a large body arrives.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;
/// What the kernel holds for a connection that does not read, bytes (Linux doubles it for its own bookkeeping). Without
/// it a stalled reader costs several megabytes.
pub const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Connections that the kernel holds until they are accepted.
pub const ACCEPT_BACKLOG: u32 = 1_024;
/// After an accept that failed for want of descriptors or memory: trying at once would only burn the processor.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a refused client may go on sending before its connection is dropped, so that it reads the refusal first.
pub const LINGER: Duration = Duration::from_secs(1);
/// Frames of a stream that is left open which are handed to its socket at once, and their bytes.
pub const HELD_BATCH_FRAMES: usize = 16;
/// See [`HELD_BATCH_FRAMES`]; one frame may be longer.
pub const HELD_BATCH_BYTES: usize = 64 * 1024;
/// What the reader of such a stream may send, though nothing of it is looked at, bytes: who sends that much is cut.
pub const HELD_IGNORED_BYTES: usize = 64 * 1024;
/// HTTP/2 requests at a time on one connection.
pub const H2_STREAMS: u32 = 64;
/// What is buffered of one HTTP/2 answer, bytes: the default of 400 KiB times the streams is too much for one peer.
pub const H2_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// What an HTTP/2 peer may send of one request before it is read, bytes; four times that per connection.
pub const H2_WINDOW_BYTES: u32 = 256 * 1024;
/// A silent HTTP/2 peer is asked this often whether it is there, and has as long to answer.
pub const H2_PING: Duration = Duration::from_secs(20);
/// A client's `X-Request-Id`, longest form that is taken over; it is in every log line of the request.
pub const CORRELATION_BYTES: usize = 64;
/// `Access-Control-Request-Headers`, longest form that is read.
pub const PREFLIGHT_BYTES: usize = 4 * 1024;
/// Connections to the admin listener: operators and scripts, not clients.
pub const ADMIN_CONNECTIONS: usize = 64;
/// Body of an admin request: one notification.
pub const ADMIN_BODY_BYTES: usize = 1024 * 1024;
/// Name of a field of a session document: the URI of a resource fits. With [`ROW_VALUE_BYTES`] it decides the size of
/// a leaf page of the database.
pub const FIELD_NAME_BYTES: usize = 4 * 1024;
/// Lines to a stdio child that wait for it to read; who sends more waits.
pub const CHILD_QUEUE: usize = 64;
/// Lines in a row of a child's stdout that are no messages; a program that prints more is not an MCP server.
pub const CHILD_GARBAGE_LINES: usize = 100;
/// A line of a child's stderr; the rest of a longer one is dropped.
pub const CHILD_STDERR_LINE_BYTES: usize = 1_024;
/// What is shown of a line in a log or an error.
pub const EXCERPT_BYTES: usize = 200;
/// Deaths of a child within [`CHILD_CRASH_WINDOW`] after which it is not started again for [`CHILD_PARK`].
pub const CHILD_CRASHES: usize = 5;
/// See [`CHILD_CRASHES`].
pub const CHILD_CRASH_WINDOW: Duration = Duration::from_secs(60);
/// See [`CHILD_CRASHES`].
pub const CHILD_PARK: Duration = Duration::from_secs(60);
/// How long a call waits for one of `max_children` places.
pub const CHILD_PLACE_WAIT: Duration = Duration::from_secs(5);
/// See [`CHILD_PLACE_WAIT`]: how often it is looked whether a child may be ended for it.
pub const CHILD_PLACE_LOOK: Duration = Duration::from_millis(250);
/// A child that has said nothing for so long since it was asked for a sign of life may hang.
pub const CHILD_PROMPT: Duration = Duration::from_millis(250);
/// A session's child that nobody has used for so long may be ended to make room for another one's.
pub const CHILD_ROOM_IDLE: Duration = Duration::from_secs(10);
/// How long a child's reader waits for a call whose client is behind. All calls of that child wait with it, so after
/// this the messages, not the answer, of the slow one are dropped.
pub const CHILD_RELAY_WAIT: Duration = Duration::from_secs(5);
/// How long a dead child's pipes are read for what it still had to say. A process that left its group can hold them
/// open for ever.
pub const CHILD_LAST_WORDS: Duration = Duration::from_millis(500);
/// Children that wait to be started by the one thread that starts them.
pub const SPAWN_QUEUE: usize = 64;
/// Questions of one hosted call to its client at a time.
pub const ASKS_PER_CALL: usize = 8;
/// Pages of a hosted server's `tools/list`: a server that always has one more page ends here.
pub const TOOL_LIST_PAGES: usize = 100;
/// Tools of one hosted server.
pub const TOOLS_PER_HOST: usize = 10_000;
/// A tool's name: SHOULD be 1 to 128 characters (MCP 2025-11-25, tools).
pub const TOOL_NAME_BYTES: usize = 128;
/// Between two listings of one host: a server that announces a change every millisecond costs no more than this.
pub const RELIST_PAUSE: Duration = Duration::from_millis(250);
/// Waiting time after the first failed listing of a host, and the longest one.
pub const RELIST_BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Waiting time before the second start within [`CHILD_CRASH_WINDOW`], and the longest one.
pub const CHILD_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// `sleep` of the diagnostics, milliseconds.
pub const SLEEP_MAX_MS: u64 = 3_600_000;
/// Messages that one `emit` of the diagnostics sends.
pub const EMIT_MAX_COUNT: u64 = 100_000;
/// Pause between two messages of `emit`, milliseconds.
pub const EMIT_MAX_INTERVAL_MS: u64 = 60_000;
/// Text that `fill` of the diagnostics returns, bytes.
pub const FILL_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Analyses of code that run at a time; each uses several threads, so more would only take turns.
pub const ANALYSES_AT_ONCE: usize = 2;
/// Threads of one analysis: beyond this the walk and the answer, which are not parallel, decide.
pub const ANALYSIS_THREADS: usize = 8;
/// A source file that is analysed; longer ones are data or generated.
pub const SOURCE_FILE_BYTES: u64 = 2 * 1024 * 1024;
/// A file above this size with a line above [`MINIFIED_LINE_BYTES`] is minified and says nothing about its authors.
pub const MINIFIED_FILE_BYTES: usize = 200 * 1024;
/// See [`MINIFIED_FILE_BYTES`].
pub const MINIFIED_LINE_BYTES: usize = 5_000;
/// How long one file may be parsed, so that a hostile one cannot hold a thread.
pub const PARSE_FILE: Duration = Duration::from_secs(2);
/// Source files of one analysis; the rest is counted as skipped.
pub const ANALYSIS_FILES: usize = 200_000;
/// Directories within directories that are walked.
pub const ANALYSIS_DEPTH: usize = 128;
/// Facts of files that are kept in memory, bytes. The standard library of Go (45 MB) needs about 60 MiB.
pub const FACTS_CACHE_BYTES: usize = 192 * 1024 * 1024;
/// Tool result's size in bytes per token of it: measured 2.4 to 3.0 for outlines and tables.
pub const RESULT_BYTES_PER_TOKEN: f64 = 2.6;
/// A prompt's name, bytes: revisions do not bound it, a list of prompts should be read by people.
pub const PROMPT_NAME_BYTES: usize = 256;
/// A resource's URI or URI template, bytes: it is the name of a field ([`FIELD_NAME_BYTES`]) where it is subscribed to.
pub const RESOURCE_URI_BYTES: usize = 4_000;
/// Prompts, resources or templates of one hosted server, each.
pub const OFFERS_PER_HOST: usize = 10_000;
/// Changed resources of one hosted server that wait to be told; beyond it changes below a subscribed URI are told as
/// changes of that URI.
pub const UPDATES_WAITING: usize = 4_096;
/// Resources that one session or one `subscriptions/listen` subscribes to.
pub const SUBSCRIPTIONS_EACH: usize = 1_000;
/// Between two rounds of `resources/updated` to one session: a resource that changes every millisecond costs no more.
pub const UPDATE_PAUSE: Duration = Duration::from_millis(100);
/// How long `initialize` and `server/discover` wait for hosted servers that still start, to say what they have; after
/// it they say that they have everything.
pub const CAPABILITIES_WAIT: Duration = Duration::from_secs(2);
/// How long the acknowledgement of `subscriptions/listen` waits for hosted servers to take its subscriptions.
pub const LISTEN_WAIT: Duration = Duration::from_secs(5);
/// Streams of `subscriptions/listen` at a time; each is a connection or an HTTP/2 stream of its own.
pub const LISTENERS: usize = 10_000;
/// Messages that wait to be written on a connection that carries everything (stdio, HTTP+SSE); who has more waits.
pub const CONVERSATION_QUEUE: usize = 64;
/// Requests that run at a time on such a connection; the next one is read when one of them ends.
pub const CONVERSATION_REQUESTS: usize = 256;
/// One event of an event stream that is read: the longest message there is, and room for its frame.
pub const SSE_EVENT_BYTES: usize = CHILD_LINE_BYTES + 1024 * 1024;
/// Stored payloads above this are packed: below it zstd saves little more than its own frame.
pub const PACK_ABOVE_BYTES: usize = 1_024;
/// How long the first requests wait for the lists of built-in tools, which are there as soon as their task has run: a
/// client that is quicker than that would be told that there are no tools.
pub const HOST_START: Duration = Duration::from_secs(5);
/// Calls of clients of 2026-07-28 that wait for answers of theirs, on this instance: each has a child, or a part of one.
pub const HELD_CALLS: usize = 1_024;
/// Calls of one principal that wait so; the one that waits longest makes room. Clients that never come back leave some.
pub const HELD_CALLS_PER_PRINCIPAL: usize = 64;
/// How often a call is made again because its server wants a URL opened first: one that always does ends with an error.
pub const URL_ROUNDS: usize = 4;
/// `requestState`, longest form that is made and read: it travels with every retry.
pub const REQUEST_STATE_BYTES: usize = 16 * 1024;
/// After a question of a hosted call more of them are waited for this long, so that they are asked in one answer.
pub const ASKS_TOGETHER: Duration = Duration::from_millis(25);
/// How long a shared child may take to answer the ping behind its handshake. What it asks before it answers is of no
/// call.
pub const CHILD_FIRST_PING: Duration = Duration::from_secs(2);
/// How long the answer to a hosted call waits for a refusal before it becomes an event stream, where the client can be
/// asked less than everything: a stream cannot have the status of a refusal any more.
pub const REFUSAL_WITHIN: Duration = Duration::from_secs(1);
/// Callers whose requests for completion are counted at a time. When more come, those who may ask as much as if they had
/// never come are forgotten, and if there are none of them everybody is.
pub const COMPLETERS: usize = 10_000;
/// Locks that the store knows, held or remembered for their fences. They are kept in memory, some 300 bytes each.
pub const LOCKS: usize = 65_536;
/// How long a lock that nobody holds is remembered: a holder that was stopped for longer is refused as unknown.
pub const LOCK_KEEP: Duration = Duration::from_secs(600);
/// The longest time for which a lock is taken at once; its holder may renew it.
pub const LOCK_MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// Name of a lock, a result or a cached value, bytes.
pub const NAME_BYTES: usize = 256;
/// Results kept for one session; a client that never reads its results cannot fill the disk with them.
pub const RESULTS_PER_SESSION: usize = 256;
/// Content of one result, bytes: the largest answer of a tool with room to spare.
pub const RESULT_BYTES: usize = 64 << 20;
/// The longest time for which a result is kept.
pub const RESULT_MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Cached values in memory, bytes of all of them together.
pub const CACHE_BYTES: u64 = 32 << 20;
/// Tags of cached results of which it is known when they were voided last, here and in the shared store; beyond it all
/// that was cached before is void.
pub const VOIDED_TAGS: usize = 10_000;
/// A cached result counts no longer, whatever its server and the configuration say: what is known of voided tags must
/// outlive it.
pub const CACHED_MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Kept results longer than this are packed in memory: a shorter one would be unpacked for longer than it saves room.
pub const CACHED_PACK_ABOVE: usize = 32 * 1024;
/// Results that are put into the shared cache at a time; more of them are not: they can be made again.
pub const CACHED_PUTS: usize = 64;
/// A packed result that is longer stays in memory alone: moving it would take as long as calls that count as slow do, and
/// the link to Redis would be left alone for it.
pub const CACHED_SHARED_BYTES: usize = 1024 * 1024;
/// A tag by which cached results are voided, bytes.
pub const TAG_BYTES: usize = 128;
/// Such tags that a result, or the configuration of a tool, may have.
pub const TAGS_EACH: usize = 16;
/// A page of a result that its client takes page by page, bytes: at least, and at most.
pub const PAGE_BYTES: (usize, usize) = (1024, 4 * 1024 * 1024);
/// A longer result is not paged: what is kept is shared with sister instances in one piece.
pub const PAGED_BYTES: usize = 16 * 1024 * 1024;
/// What one principal may have kept of paged results on an instance, bytes; beyond it results are told whole.
pub const PAGED_BYTES_EACH: usize = 64 * 1024 * 1024;
/// How long a paged result can be read at least; at most twice as long.
pub const PAGED_KEPT: Duration = Duration::from_secs(3600);
/// Cached results that the operator is shown, unless another number is asked for, and at most.
pub const CACHED_SHOWN: (usize, usize) = (100, 10_000);
/// By so much, for clocks that differ.
pub const VOIDED_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Sessions on one page of a listing.
pub const SESSIONS_PAGE: usize = 1_000;
/// Sessions that are looked at for one page: a filter that few pass costs pages, not time.
pub const SESSIONS_LOOKED_AT: usize = 4_000;
/// How far the stamps of an imported session may be ahead of this clock: beyond it they would win over everything that
/// is written here until then.
pub const STAMP_AHEAD: Duration = Duration::from_secs(60);
/// Sessions on one page of the operator's list, unless another number is asked for.
pub const SESSION_PAGE: usize = 200;
/// An exported session that is taken in: values and logs are bounded by settings, and both are far below this unless
/// somebody raised them.
pub const IMPORT_BYTES: usize = 256 * 1024 * 1024;
/// An answer of the admin listener that the command line reads: an export, which must be importable, is the longest.
pub const ADMIN_ANSWER_BYTES: usize = IMPORT_BYTES + 64 * 1024;
/// Sessions ended by the operator of which this process remembers how far their numbers went, for one that comes back
/// from a file: nobody ends and imports so many by hand.
pub const ENDED_REMEMBERED: usize = 10_000;
/// Tasks that are kept on this instance, running or ended: some 200 bytes of memory each, until their time is over.
pub const TASKS: usize = 100_000;
/// Tasks of one principal that are kept. Without authentication everybody is one principal.
pub const TASKS_PER_PRINCIPAL: usize = 20_000;
/// Tasks of one session that are kept: they are results of it, and one that runs is some more
/// ([`RESULTS_PER_SESSION`]).
pub const TASKS_PER_SESSION: usize = 128;
/// Tasks that run at a time on this instance: each has a child, or a part of one.
pub const TASKS_RUNNING: usize = 1_024;
/// How long the worker of a task has it without news. It tells of itself in half of that. Twice as long as a sign of life
/// of an instance counts ([`INSTANCE_BEAT`]): a task whose instance died is not left alone for much longer.
pub const TASK_LEASE: Duration = Duration::from_secs(30);
/// How long one instance may take to take over a task of another one before the next one may try.
pub const TASK_TURN: Duration = Duration::from_secs(15);
/// How long a request for a task whose instance is gone waits for it to be taken over here.
pub const TASK_TURN_WAIT: Duration = Duration::from_secs(2);
/// Tasks of sister instances that are remembered, some 200 bytes each, to look after those whose instance dies. Those
/// above that are found when somebody asks for them.
pub const TASKS_HEARD_OF: usize = 20_000;
/// Tasks of sister instances that are looked at in one round, which is a second: each costs a question to Redis.
pub const TASKS_LOOKED_AT: usize = 32;
/// How often a client is asked to poll a task.
pub const TASK_POLL: Duration = Duration::from_secs(1);
/// The shortest time for which a task is kept, whatever its client asks for: it must be able to fetch the result.
pub const TASK_MIN_TTL: Duration = Duration::from_secs(10);
/// Tasks on one page of `tasks/list`.
pub const TASK_PAGE: usize = 50;
/// Between two rounds of messages (progress, logs) of a task to its session's stream.
pub const TASK_TELL_PAUSE: Duration = Duration::from_millis(100);
/// Log messages of a task in one such round; of progress there is one, the newest.
pub const TASK_TELL_LOGS: usize = 16;
/// How long `tasks/cancel` of a session waits until the worker has stopped.
pub const TASK_CANCEL_WAIT: Duration = Duration::from_secs(10);
/// How often a task that another process works on is looked at by who waits for its end.
pub const TASK_LOOK: Duration = Duration::from_secs(1);
/// Task ids in one `subscriptions/listen`.
pub const LISTEN_TASKS: usize = 1_000;
/// `statusMessage`, bytes: a sentence for people.
pub const TASK_MESSAGE_BYTES: usize = 1_024;
/// For how long a hosted server is asked to keep a task of its own. Some forget one that still runs when its time is over,
/// so it is longer than any call takes; the task ends with the call all the same.
pub const CHILD_TASK_TTL: Duration = Duration::from_secs(24 * 3600);
/// A session id that a caller of the bridge chooses, bytes.
pub const CALLER_ID_BYTES: usize = 256;
/// Session ids of callers of which this process remembers the sessions; the disk knows all of them. Some 300 bytes each.
pub const CALLER_IDS: usize = 16_384;
/// Rounds in which a caller's session id is given to a session: each is lost to somebody who gave it at the same moment.
pub const BIND_ROUNDS: u32 = 16;
/// Answer of an external API that is asked whether credentials are good: a small object.
pub const VERDICT_BYTES: usize = 64 * 1024;
/// Strings shorter than this are not looked for in results to be hidden: they would be found everywhere.
pub const SECRET_BYTES: usize = 8;
/// Sessions of the Flask bridge that are put in at a time, and the bytes of them beyond which no more are added.
pub const TAKE_OVER_SESSIONS: usize = 200;
/// See [`TAKE_OVER_SESSIONS`].
pub const TAKE_OVER_BYTES: usize = 4 * 1024 * 1024;
/// A request that puts in sessions of the Flask bridge: a batch, of which the last session may be long.
pub const TAKE_OVER_BODY_BYTES: usize = 64 * 1024 * 1024;
/// A session of the Flask bridge that is read, bytes: it keeps charts and their data in one value.
pub const FLASK_SESSION_BYTES: usize = 32 * 1024 * 1024;
/// What a child's processes may map beyond its limit on memory: stacks of threads count as a whole, used or not.
pub const CHILD_DATA_SLACK_BYTES: u64 = 1 << 30;
/// Between two looks at what children use: a program fills a gigabyte in about half a second.
pub const USAGE_PAUSE: Duration = Duration::from_millis(150);
/// After a look it is waited for at least this many times as long as the look took, so that a machine with many
/// processes spends no more than a fiftieth of a processor on it.
pub const USAGE_SHARE: u32 = 50;
/// How long a hosted server that was taken out of the configuration may finish the calls that run in it.
pub const RETIRE_WAIT: Duration = Duration::from_secs(60);
/// Between two looks whether they have ended.
pub const RETIRE_LOOK: Duration = Duration::from_millis(50);
/// Fields of a document in one push: a script that runs long holds up everybody.
pub const PUSH_FIELDS: usize = 500;
/// Entries of a log in one push, for the same reason.
pub const PUSH_ENTRIES: usize = 64;
/// Bytes in one push beyond which the rest goes in another one, for the same reason; one value may be longer.
pub const PUSH_BYTES: usize = 256 * 1024;
/// Commands to one Redis that wait to be written on its connection; who has more waits, within its deadline.
pub const REDIS_PIPELINE: usize = 1_024;
/// Redirections of one command in a cluster that are followed.
pub const REDIRECTIONS: usize = 3;
/// How often a command is tried again when its keys are on the move, and between what times it waits.
pub const TRY_AGAIN: (usize, Duration, Duration) = (2, Duration::from_millis(20), Duration::from_millis(60));
/// Shards of a cluster: the most that the specification recommends.
pub const SHARDS: usize = 1_000;
/// Names that Redis looks at for one page of a scan: a scan must not hold others up.
pub const SCAN_PAGE: usize = 500;
/// A sign of life of this instance, and how long it counts.
pub const INSTANCE_BEAT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));
/// Sessions that owe something to the shared store, of which memory knows what (about 400 bytes each): of more of them
/// the disk says that they owe.
pub const OWED_IN_MEMORY: usize = 50_000;
/// Hints that something was written elsewhere, which wait to be looked at: beyond it everything that is held in memory
/// is looked at.
pub const WOKEN: usize = 100_000;
/// Of these as many are looked at at once: enough to keep one connection busy.
pub const WOKEN_AT_ONCE: usize = 64;
/// Values that lost against a later write of another instance, kept for somebody to look at.
pub const CONFLICTS_KEPT: usize = 1_000;
/// Of these the operator is shown as many at a time, unless another number is asked for, and at most.
pub const CONFLICTS_PAGE: (usize, usize) = (100, 1_000);
/// And values of so many bytes together; one may be longer.
pub const CONFLICTS_PAGE_BYTES: usize = 4 << 20;
/// Values that were written without the shared store, of which it is remembered that others may not have seen them (about
/// 150 bytes each).
pub const AT_RISK: usize = 100_000;
/// How long that is remembered after the shared store has such a value: instances that come back from the same outage have
/// paid by then.
pub const AT_RISK_KEPT: Duration = Duration::from_secs(600);
/// How often those of before are looked for.
pub const AT_RISK_SWEEP: Duration = Duration::from_secs(30);
/// What the shared store did not understand, or what could not be read here, is not offered again before this long.
pub const PAY_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);
/// Sessions per second that are healed when many owe something: at least, and at most. In between the pace follows how
/// fast the shared store answers.
pub const HEAL_MIN_PER_SECOND: u64 = 500;
/// See [`HEAL_MIN_PER_SECOND`].
pub const HEAL_MAX_PER_SECOND: u64 = 10_000;
/// Of these as many are paid for at once.
pub const HEAL_AT_ONCE: usize = 32;
/// What a client said that another instance has to hear is kept so long: by then it was heard, or nobody is there who
/// could act on it.
pub const INTENT_KEPT: Duration = Duration::from_secs(120);
/// A call whose instance has not said for so long that it runs is ended by another one.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(60);
/// How often it is looked whether it does.
pub const ORPHAN_LOOK: Duration = Duration::from_secs(5);
/// Sister instances that are asked at a time whether they reach Redis.
pub const PEERS_ASKED: usize = 2;
/// How long one of them may take to answer, and how much it may say, bytes.
pub const PEER_ANSWER: Duration = Duration::from_secs(1);
/// See [`PEER_ANSWER`].
pub const PEER_ANSWER_BYTES: u64 = 64 * 1024;
/// An announcement to sister instances is kept so long: who was away for longer takes everything for changed.
pub const ANNOUNCEMENT_KEPT: Duration = Duration::from_secs(600);
/// Paying for one session takes no longer: its steps are bounded by the deadline of the link, each.
pub const PAY_AT_MOST: Duration = Duration::from_secs(30);
/// After the shared store has lost something, nothing is said to be nowhere for so long: sister instances may have it.
pub const RESEED_GRACE: Duration = Duration::from_secs(60);
/// A topic or a filter of topics, bytes.
pub const TOPIC_BYTES: usize = 256;
/// Operators who listen to topics at a time. Each may have a queue of [`TAIL_QUEUE_BYTES`].
pub const TAILS: usize = 32;
/// What waits for one who listens: messages, and notes of what was missed.
pub const TAIL_QUEUE: usize = 1_024;
/// The same in bytes: room for a message as long as they come ([`ADMIN_BODY_BYTES`]), and some more.
pub const TAIL_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Messages that wait to be passed on to instances where somebody listens.
pub const RELAY_QUEUE: usize = 1_024;
/// Messages that are passed on together.
pub const RELAY_BATCH: usize = 64;
/// What an instance wants to be told it is told for so long; it says so three times in that.
pub const WANTED_FOR: Duration = Duration::from_secs(30);
/// How long sister instances are waited for that are asked how many streams carry what an operator says.
pub const CARRIERS_WAIT: Duration = Duration::from_millis(500);
/// Sister instances that are waited for then.
pub const CARRIERS_ASKED: usize = 64;
/// Failures in a row after which a backend is not called for a while: one or two are accidents.
pub const BREAKER_FAILURES: usize = 5;
/// The outcomes over which a backend is judged whose calls fail in part: half of so many, none older than
/// [`BREAKER_WINDOW`].
pub const BREAKER_WINDOW_CALLS: usize = 20;
/// See [`BREAKER_WINDOW_CALLS`].
pub const BREAKER_WINDOW: Duration = Duration::from_secs(30);
/// How long such a backend is left alone, the first time and at most.
pub const BREAKER_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A probe that has not come back for so long is followed by another one.
pub const BREAKER_PROBE_PATIENCE: Duration = Duration::from_secs(30);
/// Failures so soon after a recovery belong to the trouble before: the pause goes on growing.
pub const BREAKER_RELAPSE: Duration = Duration::from_secs(60);
/// An answer of a remote server: as much as a line of a child.
pub const UPSTREAM_BODY_BYTES: usize = CHILD_LINE_BYTES;
/// What is read of an answer that says what went wrong.
pub const UPSTREAM_ERROR_BYTES: usize = 64 * 1024;
/// A connection to a remote server that takes longer is given up: the slowest handshake with TLS over a satellite takes two.
pub const UPSTREAM_CONNECT: Duration = Duration::from_secs(10);
/// An event stream of changes, or a session's own, that is silent for so long is opened anew: servers send comments far more
/// often, and what is in between may have forgotten it. The answer to a call has the time of the call.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(300);
/// A connection to a remote server on which nothing came for so long is asked whether it is still one; twice as long
/// without a reply, and it is gone with what waits on it.
pub const UPSTREAM_KEEPALIVE: Duration = Duration::from_secs(60);
/// How long a remote server may take to say whether it speaks the latest revision before the older ones are tried.
pub const UPSTREAM_DISCOVER: Duration = Duration::from_secs(10);
/// How long a remote server is waited for that is told something to which it has nothing to answer.
pub const UPSTREAM_TELL: Duration = Duration::from_secs(10);
/// Messages of a session's common stream that wait for the call they belong to.
pub const UPSTREAM_SIDE: usize = 64;
/// Rounds in which one call of a remote server may ask its client: beyond it, it would go on for ever.
pub const UPSTREAM_ROUNDS: usize = 32;
/// How often the broken stream of one call is resumed without having brought anything.
pub const UPSTREAM_RESUMES: usize = 10;
/// Before a stream is opened anew, where the server does not say how long it is to be waited, the first time and at most.
pub const UPSTREAM_REOPEN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Redirections within one server that are followed.
pub const UPSTREAM_REDIRECTS: usize = 3;
/// Events in a row of a remote server that are no messages, after which it counts as none.
pub const UPSTREAM_GARBAGE: usize = 100;
/// Sessions of one remote server that are held in memory; those that nobody used for a while go first.
pub const UPSTREAM_SESSIONS: usize = 10_000;
/// The lists of a remote server are looked at again after this long at most, if it says that they count for a while.
pub const UPSTREAM_FRESH: Duration = Duration::from_secs(3600);
/// Between two looks which of them nobody used.
pub const UPSTREAM_SWEEP: Duration = Duration::from_secs(15);
/// Before a call that failed and does no harm twice is tried again.
pub const UPSTREAM_AGAIN: Duration = Duration::from_millis(200);
/// How often a task of a remote server is looked at, where it does not say how often: least and most.
pub const UPSTREAM_POLL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Looks at a task in a row that fail before it is given up: with the pauses between them, a server has about ten seconds
/// to start again.
pub const UPSTREAM_POLL_FAILURES: usize = 6;
/// Lost sessions of one remote server that are made anew at a time, for those who wait to hear of changes.
pub const UPSTREAM_RESTORES: usize = 8;
/// JSON text of a schema that is enforced. Those of real tools have a few kilobytes.
pub const SCHEMA_BYTES: usize = 256 * 1024;
/// Steps that a schema may take for one value: some milliseconds.
pub const SCHEMA_STEPS: u64 = 20_000;
/// Schemas that may apply one another in a row: each takes a part of the stack, here and in the library.
pub const SCHEMA_CHAIN: usize = 256;
/// Steps back of one pattern on one text, so that a hostile pattern cannot hold a thread.
pub const SCHEMA_PATTERN_STEPS: usize = 50_000;
/// Faults of one value that are told, and the text of each, bytes: enough to mend a call.
pub const SCHEMA_FAULTS: usize = 5;
/// See [`SCHEMA_FAULTS`].
pub const SCHEMA_FAULT_BYTES: usize = 256;
/// Values above this, bytes of JSON, are held against a schema on a thread of their own: it takes milliseconds.
pub const SCHEMA_INLINE_BYTES: usize = 64 * 1024;
/// Waiting time before a call is made again, and the longest one.
pub const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Calls that wait for a place of one tool, or of one principal; more are refused.
pub const CALLS_WAITING: usize = 1_024;
/// An idempotency key, bytes: a UUID, or a sentence.
pub const IDEMPOTENCY_KEY_BYTES: usize = 256;
/// Calls with idempotency keys, and others that equal calls may join, that run at a time: each has a task.
pub const KEYED_CALLS: usize = 10_000;
/// How long a call with an idempotency key runs on for clients that have lost their connections.
pub const JOIN_LINGER: Duration = Duration::from_secs(60);
/// How long one of those who wait for the same call may hold up its messages to the others; after that it gets the
/// answer alone.
pub const JOIN_RELAY_WAIT: Duration = Duration::from_secs(1);
/// What equal calls came to is kept in memory, bytes of all of them together.
pub const JOIN_BYTES: u64 = 16 << 20;
/// How often it is looked what became of a call that runs on another instance under the same key.
pub const KEY_LOOK: Duration = Duration::from_millis(500);
/// Calls of one request to the bridge that run at a time: one request must not take all that a server can do.
pub const BRIDGE_BATCH_AT_ONCE: usize = 16;

/// How often a process that starts looks again for the lock of a data directory whose holder is dead: a child that was
/// being started has it for as long as a fork takes, even on a busy machine.
pub const LOCK_LOOKS: u32 = 200;
/// Between two of these looks.
pub const LOCK_PAUSE: Duration = Duration::from_millis(10);
