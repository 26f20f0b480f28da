-- The whole of a new database. Written in one transaction to a file of its own, which is then moved into place.

CREATE TABLE job (
    id           INTEGER PRIMARY KEY,                 -- one more than the highest; never reused, see job_newest_stays
    state        TEXT    NOT NULL,
    queue        TEXT    NOT NULL,
    lane         INTEGER NOT NULL,                    -- 0 function or command, 1 coroutine
    priority     INTEGER NOT NULL,                    -- higher first
    claim        INTEGER NOT NULL DEFAULT 0,          -- the fence: counts claims, only rises
    attempt      INTEGER NOT NULL DEFAULT 0,          -- counts tries begun
    failures     INTEGER NOT NULL DEFAULT 0,          -- counts against retries
    deaths       INTEGER NOT NULL DEFAULT 0,          -- workers that died under it
    worker       INTEGER,                             -- who runs it
    worker_pid   INTEGER,
    cancel       TEXT,                                -- why somebody asked for its end while it ran,
    cancel_signal INTEGER,                            -- what it gets first, NULL for TERM,
    cancel_grace REAL,                                -- and seconds until KILL, NULL for its policy's
    created_at   REAL    NOT NULL,
    due_at       REAL,                                -- not before
    scheduled_for REAL,                               -- the tick of the schedule that made it
    expires_at   REAL,                                -- not to be started after
    started_at   REAL,
    finished_at  REAL,
    kind         TEXT    NOT NULL,                    -- call | command
    task         TEXT    NOT NULL,                    -- a name, module:function, or the command's first word
    name         TEXT,
    tags         TEXT,                                -- a JSON object of texts
    reason       TEXT,
    timeout      REAL,                                -- these five: NULL leaves it to the task, then to the default
    retries      INTEGER,
    retry_delay  REAL,
    on_lost      TEXT,
    policy       TEXT,                                -- JSON, see Policy in job.py
    park         INTEGER NOT NULL,                    -- an unknown name: 1 waits for a worker that knows it, 0 fails
    environment  INTEGER,                             -- a command's environment
    exit_code    INTEGER,
    signal       INTEGER,
    checksum     INTEGER NOT NULL,                    -- over task, target and payload
    target       BLOB,                                -- where the function is found when its name is not registered
    payload      BLOB    NOT NULL,
    error_type   TEXT,
    error        TEXT,
    traceback    TEXT,
    result       BLOB,
    result_checksum INTEGER,
    callback     TEXT,                                -- the socket where its end is told
    callback_data TEXT,                               -- JSON, sent along
    told         TEXT,                                -- its result as listeners get it: a JSON object, see tell() in serialization
    waits_for    TEXT,                                -- what a blocked job waits for: a limit's key, 'jobs', or 'hold': a person
    limits       TEXT,                                -- JSON, see limits.py: what it must not exceed while it runs
    inputs       TEXT,                                -- JSON, whose results are its first argument: an id, or a list of them
    unique_key   TEXT,                                -- one job with it waits or runs
    debounce     REAL,                                -- until it is claimed: what comes next with its unique_key takes its place
    idempotency_key TEXT
) STRICT;

-- What a claim reads. Scheduled jobs are kept apart: in one index, 50,000 future jobs made a claim cost 5-15 ms.
CREATE INDEX job_queued    ON job (queue, lane, priority DESC, id) WHERE state = 'queued';
CREATE INDEX job_scheduled ON job (due_at)                         WHERE state = 'scheduled';
CREATE INDEX job_blocked   ON job (task)                           WHERE state = 'blocked';
CREATE INDEX job_waiting   ON job (waits_for, queue, lane, priority DESC, id) WHERE state = 'blocked' AND waits_for IS NOT NULL;
-- What recovery reads.
CREATE INDEX job_running   ON job (worker)                         WHERE state = 'running';

-- What the runner reads when it is told of a cancel, and what it reads to end what nobody has started in time.
CREATE INDEX job_cancel    ON job (worker)                         WHERE state = 'running' AND cancel IS NOT NULL;
CREATE INDEX job_expires   ON job (expires_at)                     WHERE expires_at IS NOT NULL AND state IN ('queued', 'scheduled', 'blocked');

-- What `fwl health` reads. Only jobs that fail pay for it.
CREATE INDEX job_failed    ON job (finished_at)                    WHERE state = 'failed';

-- What a submit with such a key reads. The first term is false for all other jobs, whose updates pay for no more than that.
-- One that somebody wants cancelled makes room for its successor.
CREATE UNIQUE INDEX job_unique ON job (unique_key)
    WHERE unique_key IS NOT NULL AND cancel IS NULL AND (debounce IS NULL OR claim = 0)
      AND (state = 'queued' OR state = 'scheduled' OR state = 'blocked' OR state = 'running');
CREATE INDEX job_idempotent ON job (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Earlier tries of a job. The last one stands in the job itself: a job that succeeds at once has no row here.
CREATE TABLE attempt (
    job         INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    outcome     TEXT    NOT NULL,
    started_at  REAL,
    finished_at REAL,
    reason      TEXT,
    error_type  TEXT,
    error       TEXT,
    traceback   TEXT,
    exit_code   INTEGER,
    signal      INTEGER,
    worker_pid  INTEGER,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;

-- The limits of jobs that are freed by the end of another, for the trigger below: it may not read JSON, which is no function
-- that SQLite trusts a schema with.
CREATE TABLE job_limit (
    job INTEGER NOT NULL,
    key TEXT    NOT NULL,
    PRIMARY KEY (job, key)
) STRICT, WITHOUT ROWID;

-- Which running jobs take up a place under which limit: an index over the running rows, kept by the claim and by the
-- trigger below, so that no way of dying leaves a place taken.
CREATE TABLE slot (
    key TEXT    NOT NULL,
    job INTEGER NOT NULL,
    PRIMARY KEY (key, job)
) STRICT, WITHOUT ROWID;
CREATE INDEX slot_of_job ON slot (job);

-- What is left of a rate: a bucket that fills up with time. One without a row is full.
CREATE TABLE bucket (
    key     TEXT PRIMARY KEY,
    tokens  REAL NOT NULL,
    at      REAL NOT NULL,           -- when that was so
    most    INTEGER NOT NULL,        -- what it holds,
    seconds REAL NOT NULL,           -- and in how long that comes
    wake_at REAL                     -- when whoever waits for it is to be queued
) STRICT, WITHOUT ROWID;

CREATE INDEX bucket_wake ON bucket (wake_at) WHERE wake_at IS NOT NULL;

-- A job that limits let wait is queued when one that ran under the same limit stops, for whatever reason, or when one that
-- had been queued for that will not run. Of each queue and lane the next one: somebody may serve this one and not that one.
CREATE TRIGGER job_frees_its_limits
AFTER UPDATE OF state ON job
WHEN old.limits IS NOT NULL
 AND (old.state = 'running' OR old.state = 'queued')
 AND new.state <> 'running'
 AND (new.waits_for IS NULL OR new.waits_for = 'hold')
BEGIN
    DELETE FROM slot WHERE job = old.id;
    UPDATE job
       SET state = 'queued', waits_for = NULL, reason = NULL
     WHERE id IN (SELECT (SELECT id
                            FROM job AS next
                           WHERE next.state = 'blocked'
                             AND next.waits_for = job_limit.key
                             AND next.queue = queue.name
                             AND next.lane = lane.number
                           ORDER BY next.priority DESC, next.id
                           LIMIT 1)
                    FROM job_limit CROSS JOIN queue CROSS JOIN (SELECT 0 AS number UNION ALL SELECT 1) AS lane
                   WHERE job_limit.job = old.id);
END;

-- Which job waits for which. An edge stays until one of its jobs is deleted, so that results stay for who needs them.
CREATE TABLE edge (
    parent  INTEGER NOT NULL,
    child   INTEGER NOT NULL,
    kind    TEXT    NOT NULL,        -- success | any | failure: how the parent has to end
    outcome TEXT,                    -- how it has ended
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX edge_of_child ON edge (child, outcome);

-- Parents whose end nobody has drawn the consequences of: done in the same transaction, see dependencies.py. A trigger that
-- ended child after child itself would meet SQLite's limit of 1,000 nested triggers.
CREATE TABLE ended_parent (
    job INTEGER PRIMARY KEY
) STRICT;

CREATE TRIGGER job_ended_frees_dependents
AFTER UPDATE OF state ON job
WHEN new.finished_at IS NOT NULL
 AND (new.state = 'succeeded' OR new.state = 'failed' OR new.state = 'cancelled' OR new.state = 'expired')
 AND EXISTS (SELECT 1 FROM edge WHERE parent = new.id)
BEGIN
    UPDATE edge SET outcome = new.state WHERE parent = new.id;
    INSERT OR IGNORE INTO ended_parent VALUES (new.id);
END;

CREATE TABLE progress (
    job   INTEGER PRIMARY KEY,
    done  REAL NOT NULL,
    total REAL,
    note  TEXT,
    at    REAL NOT NULL
) STRICT;

CREATE TRIGGER job_ended_is_final
BEFORE UPDATE OF state ON job
-- Not written with IN: SQLite builds a table for that at every update, which made a job a third dearer.
WHEN (old.state = 'succeeded'
      OR ((old.state = 'failed' OR old.state = 'cancelled' OR old.state = 'expired') AND new.state <> 'queued'))
BEGIN
    SELECT RAISE(ABORT, 'a job that has ended does not change');
END;

-- People keep ids in scripts, so an id is not given twice: the row with the highest one outlives any deletion. (AUTOINCREMENT
-- promises the same, but writes a page of its own at every submit.)
CREATE TRIGGER job_newest_stays
BEFORE DELETE ON job
WHEN old.id = (SELECT max(id) FROM job)
BEGIN
    SELECT RAISE(IGNORE);
END;

-- Who wants to be told of ended jobs, beside those that jobs name themselves.
CREATE TABLE listener (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    address    TEXT    NOT NULL,          -- the path of a socket
    task       TEXT    NOT NULL,          -- GLOB over the task's name
    queue      TEXT,                      -- NULL for all
    ends       TEXT    NOT NULL,          -- of which: words of success, failure, cancelled
    paused     INTEGER NOT NULL DEFAULT 0,
    lease      TEXT,                      -- registered for as long as this process lives; NULL for good
    created_at REAL    NOT NULL
) STRICT;

-- What is still to be told. A row goes when its listener has acknowledged it.
CREATE TABLE outbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,   -- never reused: listeners know by it what they have seen
    address     TEXT    NOT NULL,
    listener    INTEGER,                             -- NULL for a job's own callback
    dead        TEXT,                                -- why nobody tries any more; 'paused' while the listener is
    job         INTEGER NOT NULL,                    -- from here on: how it ended, whatever becomes of it later
    task        TEXT    NOT NULL,
    attempt     INTEGER NOT NULL,
    state       TEXT    NOT NULL,
    reason      TEXT,
    error       TEXT,
    started_at  REAL,
    finished_at REAL    NOT NULL,
    data        TEXT,                                -- JSON
    told        TEXT                                 -- JSON
) STRICT;
CREATE INDEX outbox_waiting ON outbox (address, id) WHERE dead IS NULL;
CREATE INDEX outbox_dead    ON outbox (address, id) WHERE dead IS NOT NULL;

-- In the transaction that ends a job, whichever way it ends.
CREATE TRIGGER job_ended_is_told
AFTER UPDATE OF state ON job
WHEN new.finished_at IS NOT NULL
 AND (new.callback IS NOT NULL OR EXISTS (SELECT 1 FROM listener))
 AND (new.state = 'succeeded' OR new.state = 'failed' OR new.state = 'cancelled' OR new.state = 'expired')
BEGIN
    INSERT INTO outbox (address, job, task, attempt, state, reason, error, started_at, finished_at, data, told)
    SELECT new.callback, new.id, new.task, new.attempt, new.state, new.reason, new.error, new.started_at, new.finished_at,
           new.callback_data, new.told
     WHERE new.callback IS NOT NULL;
    INSERT INTO outbox (address, listener, dead, job, task, attempt, state, reason, error, started_at, finished_at, told)
    SELECT address, id, iif(paused, 'paused', NULL), new.id, new.task, new.attempt, new.state, new.reason, new.error,
           new.started_at, new.finished_at, new.told
      FROM listener
     WHERE new.task GLOB task
       AND (queue IS NULL OR queue = new.queue)
       AND instr(ends, CASE new.state WHEN 'succeeded' THEN 'success' WHEN 'cancelled' THEN 'cancelled' ELSE 'failure' END);
END;

-- Who follows the events. While there is nobody, none is written: always would cost a fifth of the throughput.
CREATE TABLE follower (
    name  TEXT PRIMARY KEY,
    lease TEXT                            -- follows for as long as this process lives; NULL for good
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    offset  INTEGER PRIMARY KEY AUTOINCREMENT,
    job     INTEGER NOT NULL,
    event   TEXT    NOT NULL,
    at      REAL    NOT NULL,
    task    TEXT    NOT NULL,
    queue   TEXT    NOT NULL,
    attempt INTEGER NOT NULL,
    reason  TEXT
) STRICT;

CREATE TRIGGER event_of_a_new_job
AFTER INSERT ON job
WHEN EXISTS (SELECT 1 FROM follower)
BEGIN
    INSERT INTO event (job, event, at, task, queue, attempt, reason)
    VALUES (new.id, new.state, new.created_at, new.task, new.queue, new.attempt, new.reason);
END;

CREATE TRIGGER event_of_a_job
AFTER UPDATE OF state ON job
WHEN EXISTS (SELECT 1 FROM follower)
BEGIN
    INSERT INTO event (job, event, at, task, queue, attempt, reason)
    VALUES (new.id,
            CASE WHEN new.state = 'running' THEN 'started'
                 WHEN old.state = 'running' AND new.attempt = old.attempt
                  AND (new.state = 'queued' OR new.state = 'scheduled') THEN 'retrying'
                 ELSE new.state END,
            (julianday('now') - 2440587.5) * 86400.0, new.task, new.queue, new.attempt, new.reason);
END;

CREATE TRIGGER event_of_progress
AFTER INSERT ON progress
WHEN EXISTS (SELECT 1 FROM follower)
BEGIN
    INSERT INTO event (job, event, at, task, queue, attempt, reason)
    SELECT id, 'progress', new.at, task, queue, attempt,
           CAST(new.done AS TEXT) || ifnull('/' || CAST(new.total AS TEXT), '') || ifnull(' ' || new.note, '')
      FROM job
     WHERE id = new.job;
END;

-- The log is bounded: who was away for longer than this has missed some, and sees it by the offsets.
CREATE TRIGGER event_log_is_bounded
AFTER INSERT ON event
BEGIN
    DELETE FROM event WHERE offset <= new.offset - 100000;
END;

CREATE TRIGGER job_deleted
AFTER DELETE ON job
BEGIN
    DELETE FROM attempt  WHERE job = old.id;
    DELETE FROM progress WHERE job = old.id;
    DELETE FROM waiter   WHERE job = old.id;
    DELETE FROM job_limit WHERE job = old.id;
    DELETE FROM edge     WHERE parent = old.id;
    DELETE FROM edge     WHERE child = old.id;
END;

-- Whatever way a job comes back from a worker: one that somebody wanted cancelled does not wait for another turn.
CREATE TRIGGER job_asked_to_stop
AFTER UPDATE OF state ON job
WHEN new.cancel IS NOT NULL
 AND (new.state = 'queued' OR new.state = 'scheduled' OR new.state = 'blocked')
BEGIN
    UPDATE job
       SET state = 'cancelled', reason = new.cancel, finished_at = (julianday('now') - 2440587.5) * 86400.0
     WHERE id = new.id;
END;

CREATE TABLE queue (
    name   TEXT PRIMARY KEY,
    paused INTEGER NOT NULL DEFAULT 0,
    workers    INTEGER,                    -- so many of its jobs run at a time
    max_length INTEGER,                    -- so many may be queued
    rate       TEXT                        -- so many are begun, "10/s"
) STRICT, WITHOUT ROWID;

-- A command's environment, once for all jobs that share it.
CREATE TABLE environment (
    id     INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    vars   BLOB NOT NULL
) STRICT;

-- Processes that serve this file. Alive is whoever holds its lease's lock; a row alone proves nothing.
CREATE TABLE runner (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    lease      TEXT NOT NULL UNIQUE,
    version    TEXT NOT NULL,
    wake       TEXT NOT NULL,       -- datagram sockets: jobs for functions,
    wake_async TEXT NOT NULL,       -- jobs for coroutines,
    control    TEXT NOT NULL,       -- everything that is for the scheduler,
    outbox     TEXT NOT NULL,       -- and word that there is something to tell
    tasks      TEXT,                -- a JSON array of the names it knows; NULL while it is starting
    pid        INTEGER NOT NULL,
    started_at REAL NOT NULL,
    role       TEXT NOT NULL,       -- worker: fwl worker; drain: fwl drain; embedded: in a program of somebody's
    queues     TEXT                 -- a JSON array of the queues it serves; NULL for all
) STRICT;

CREATE TABLE worker (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    lease      TEXT NOT NULL UNIQUE,
    runner     INTEGER,             -- NULL: works for itself alone, as `fwl run` does
    lane       INTEGER NOT NULL,
    process    TEXT NOT NULL,       -- JSON: pid, start time, boot id, pid namespace: one process, never another
    started_at REAL NOT NULL
) STRICT;

-- Who wants to be told when a job ends.
CREATE TABLE waiter (
    job     INTEGER NOT NULL,
    address TEXT    NOT NULL,
    PRIMARY KEY (job, address)
) STRICT, WITHOUT ROWID;

-- Databases of applications that submit within their own transactions.
CREATE TABLE relay (
    path TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE setting (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One file, never another: two files may tell one listener.
INSERT INTO setting VALUES ('id', lower(hex(randomblob(6))));

-- What makes jobs by the clock. Columns from kind on: the job, as each tick makes it.
CREATE TABLE schedule (
    name        TEXT PRIMARY KEY,
    origin      TEXT    NOT NULL,              -- file | task | api
    source      TEXT,                          -- the file it stands in, or the task that declares it
    spec        TEXT    NOT NULL,              -- JSON, see Schedule in schedule.py
    paused      INTEGER NOT NULL DEFAULT 0,
    made        INTEGER NOT NULL DEFAULT 0,    -- jobs so far, for repeat_count
    tick        REAL,                          -- the next one; NULL when none will come
    next_at     REAL,                          -- when its job is made: a little later, where there is jitter
    kind        TEXT    NOT NULL,
    task        TEXT    NOT NULL,
    lane        INTEGER NOT NULL,
    park        INTEGER NOT NULL,
    options     TEXT    NOT NULL,              -- JSON
    checksum    INTEGER NOT NULL,
    target      BLOB,
    payload     BLOB    NOT NULL,
    environment BLOB,                          -- a command's
    limits      TEXT
) STRICT;
CREATE INDEX schedule_next ON schedule (next_at) WHERE next_at IS NOT NULL AND NOT paused;

-- What became of each tick. That there is one row for one tick is what makes one job of it, however many runners there are.
CREATE TABLE tick (
    schedule TEXT    NOT NULL,
    at       REAL    NOT NULL,                 -- the time it stands for
    job      INTEGER,                          -- NULL where none was made
    outcome  TEXT    NOT NULL,                 -- queued | skipped | missed
    reason   TEXT,
    open     INTEGER NOT NULL DEFAULT 0,       -- whether its job has not ended
    PRIMARY KEY (schedule, at)
) STRICT, WITHOUT ROWID;
CREATE INDEX tick_job  ON tick (job)           WHERE job IS NOT NULL;
CREATE INDEX tick_open ON tick (schedule, job) WHERE open;

-- A job of a schedule has ended, or is tried again. When it has ended the one that waited for it may begin: in the same
-- transaction, so that there is no moment at which two run, nor one at which nobody would begin.
CREATE TRIGGER scheduled_job_ended
AFTER UPDATE OF state ON job
WHEN new.scheduled_for IS NOT NULL
 AND (old.finished_at IS NULL) <> (new.finished_at IS NULL)
BEGIN
    UPDATE tick SET open = (new.finished_at IS NULL) WHERE job = new.id;
    UPDATE job
       SET state = 'queued', reason = NULL
     WHERE new.finished_at IS NOT NULL
       AND state = 'blocked'
       AND waits_for IS NULL
       AND id = (SELECT min(later.job)
                   FROM tick AS own
                        JOIN tick AS later ON later.schedule = own.schedule AND later.open
                  WHERE own.job = new.id);
END;
