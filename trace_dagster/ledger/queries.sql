-- Every statement of the ledger. Each is safe to send again when its answer was lost.
-- Time is Postgres' own clock throughout: clients' clocks do not matter.

-- name: prepare_session
SET lock_timeout = '10s';
SET idle_in_transaction_session_timeout = '5min';

-- name: schema_exists
SELECT to_regclass('trace.alembic_version') IS NOT NULL AS exists;

-- name: schema_revision
SELECT version_num FROM trace.alembic_version;

-- name: claim
-- Take the task if it is free, if its lease has expired, or if it is ours already (the answer was lost).
WITH claimed AS (
    INSERT INTO trace.tasks AS task (task_key, number, token, state, run_id, lease_expires_at)
    VALUES (%(task_key)s, 1, %(token)s, 'running', %(run_id)s,
            clock_timestamp() + make_interval(secs => %(lease_seconds)s))
    ON CONFLICT (task_key) DO UPDATE
    SET number = task.number + 1, token = excluded.token, state = 'running', run_id = excluded.run_id,
        lease_expires_at = excluded.lease_expires_at, storage_root = NULL, prefixes = '{}'
    WHERE task.state <> 'running' OR task.lease_expires_at <= clock_timestamp()
       OR task.token = excluded.token
    RETURNING task_key, number
), lost AS (
    UPDATE trace.attempts AS earlier
    SET state = 'lost', finished_at = clock_timestamp(), error = 'its lease expired and was taken over'
    FROM claimed
    WHERE earlier.task_key = claimed.task_key AND earlier.number < claimed.number
      AND earlier.state = 'running'
)
INSERT INTO trace.attempts (task_key, number, state, run_id)
SELECT task_key, number, 'running', %(run_id)s FROM claimed
RETURNING number;

-- name: holder
SELECT number, run_id, state = 'running' AND lease_expires_at > clock_timestamp() AS live,
       token = %(token)s AS mine,
       extract(epoch FROM lease_expires_at - clock_timestamp())::float8 AS seconds_left
FROM trace.tasks WHERE task_key = %(task_key)s;

-- name: name_session
-- For the length of the transaction: so that who waits for the task finds the session that holds its row.
SELECT set_config('application_name', 'trace ' || md5(%(task_key)s), true);

-- name: end_stalled
-- End sessions in the middle of a commit whose attempt should have been heard of long ago: the process stands
-- still, or its machine or network is gone, and Postgres would keep the row locked until it notices.
SELECT pg_terminate_backend(session.pid)
FROM trace.tasks AS task
JOIN pg_stat_activity AS session ON session.application_name = 'trace ' || md5(task.task_key)
WHERE task.task_key = %(task_key)s AND session.datname = current_database()
  AND task.lease_expires_at + make_interval(secs => %(lease_seconds)s) < clock_timestamp();

-- name: still_mine
SELECT 1 FROM trace.tasks
WHERE task_key = %(task_key)s AND token = %(token)s AND state = 'running'
  AND lease_expires_at > clock_timestamp();

-- name: renew
-- Also the fence: the row stays locked until the transaction ends, so nobody can take the task over.
UPDATE trace.tasks
SET lease_expires_at = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
WHERE task_key = %(task_key)s AND token = %(token)s AND state = 'running'
  AND lease_expires_at > clock_timestamp()
RETURNING 1;

-- name: announce
-- Waits while garbage collection holds one of the prefixes.
WITH gate AS MATERIALIZED (
    SELECT count(pg_advisory_xact_lock_shared(hashtextextended(%(storage_root)s || '/' || prefix, 0)))
    FROM unnest(%(prefixes)s::text[]) AS prefix
)
UPDATE trace.tasks
SET storage_root = %(storage_root)s,
    prefixes = ARRAY(SELECT DISTINCT unnest(prefixes || %(prefixes)s::text[]))
FROM gate
WHERE task_key = %(task_key)s AND token = %(token)s AND state = 'running'
  AND lease_expires_at > clock_timestamp()
RETURNING 1;

-- name: release
WITH released AS (
    UPDATE trace.tasks
    SET state = %(state)s, lease_expires_at = clock_timestamp(), storage_root = NULL, prefixes = '{}'
    WHERE task_key = %(task_key)s AND token = %(token)s AND state = 'running'
    RETURNING task_key, number
)
UPDATE trace.attempts AS attempt
SET state = %(state)s, finished_at = clock_timestamp(), error = %(error)s
FROM released
WHERE attempt.task_key = released.task_key AND attempt.number = released.number;

-- name: record
-- A version that is committed again becomes the current one, unless it is that already.
INSERT INTO trace.dataset_versions AS version (
    storage_root, dataset_version, chain_id, dataset, start_block, end_block, config_hash, prefix,
    rows, bytes, engine, synthetic, task_key, attempt, run_id)
VALUES (
    %(storage_root)s, %(dataset_version)s, %(chain_id)s, %(dataset)s, %(start_block)s, %(end_block)s,
    %(config_hash)s, %(prefix)s, %(rows)s, %(bytes)s, %(engine)s, %(synthetic)s,
    %(task_key)s, %(attempt)s, %(run_id)s)
ON CONFLICT (storage_root, dataset_version) DO UPDATE
SET rows = excluded.rows, bytes = excluded.bytes,
    sequence = CASE WHEN EXISTS (
        SELECT FROM trace.dataset_versions AS newer
        WHERE newer.storage_root = version.storage_root AND newer.chain_id = version.chain_id
          AND newer.dataset = version.dataset AND newer.sequence > version.sequence
          AND newer.start_block <= version.end_block AND newer.end_block >= version.start_block)
    THEN nextval('trace.commit_sequence') ELSE version.sequence END;

-- name: current
SELECT dataset_version::text AS dataset_version, sequence FROM trace.dataset_versions
WHERE storage_root = %(storage_root)s AND chain_id = %(chain_id)s AND dataset = %(dataset)s;

-- name: neighbours
-- The newest version that ends right before a range, and the newest that begins right behind it.
(SELECT prefix FROM trace.dataset_versions
 WHERE storage_root = %(storage_root)s AND chain_id = %(chain_id)s AND dataset = %(dataset)s
   AND end_block = %(start_block)s - 1 AND synthetic = %(synthetic)s
 ORDER BY sequence DESC LIMIT 1)
UNION ALL
(SELECT prefix FROM trace.dataset_versions
 WHERE storage_root = %(storage_root)s AND chain_id = %(chain_id)s AND dataset = %(dataset)s
   AND start_block = %(end_block)s + 1 AND synthetic = %(synthetic)s
 ORDER BY sequence DESC LIMIT 1);

-- name: wait_for_edges
-- For this transaction: a neighbour's commit may have to write its manifest to a slow store several times.
SET LOCAL lock_timeout = '2min';

-- name: hold_edge
-- Commits of ranges that meet at a block come one after the other.
SELECT pg_advisory_xact_lock(
    hashtextextended(
        'edge ' || %(storage_root)s || '/' || %(chain_id)s::bigint || '/' || %(dataset)s || '/'
        || %(block)s::bigint, 0));

-- name: live_prefixes
SELECT DISTINCT unnest(prefixes) AS prefix FROM trace.tasks
WHERE state = 'running' AND lease_expires_at > clock_timestamp() AND storage_root = %(storage_root)s;

-- name: hold_prefix
SELECT pg_advisory_xact_lock(hashtextextended(%(storage_root)s || '/' || %(prefix)s, 0));

-- name: writers_of_prefix
-- Waits for a commit that is under way: its lease was renewed, which cannot be seen before it ends.
SELECT lease_expires_at > clock_timestamp() AS live FROM trace.tasks
WHERE state = 'running' AND storage_root = %(storage_root)s AND %(prefix)s = ANY (prefixes)
FOR UPDATE;

-- name: attempts_of
SELECT number, state, run_id, started_at, finished_at, error FROM trace.attempts
WHERE task_key = %(task_key)s ORDER BY number;

-- name: unpublish
DELETE FROM trace.published_datasets WHERE dag = %(dag)s AND name <> ALL (%(names)s);

-- name: keep_publishers
DELETE FROM trace.published_datasets WHERE dag <> ALL (%(dags)s) RETURNING name;

-- name: publish_name
INSERT INTO trace.published_datasets (name, dag, job, output)
VALUES (%(name)s, %(dag)s, %(job)s, %(output)s)
ON CONFLICT (name) DO UPDATE SET job = excluded.job, output = excluded.output, updated_at = clock_timestamp()
WHERE published_datasets.dag = excluded.dag
RETURNING 1;

-- name: published
SELECT name, dag, job, output FROM trace.published_datasets ORDER BY name;

-- name: follower
SELECT follower, chain_id::bigint AS chain_id, first_block, datasets, cursor_block, cursor_hash, cursor_time, committed_at, blocks, reorgs,
       deepest_reorg, last_reorg_at, nullif(head_block, -1) AS head_block, final_block, seen_at,
       coalesce(errors, 0) AS errors, last_error, last_error_at
FROM trace.followers FULL JOIN trace.follower_heads USING (follower)
WHERE %(follower)s::text IS NULL OR follower = %(follower)s
ORDER BY follower;

-- name: followed_blocks
SELECT block_number, block_hash FROM trace.followed_blocks
WHERE follower = %(follower)s AND block_number BETWEEN %(start_block)s AND %(end_block)s
ORDER BY block_number;

-- name: saw_head
INSERT INTO trace.follower_heads (follower, head_block, final_block)
VALUES (%(follower)s, %(head_block)s, %(final_block)s)
ON CONFLICT (follower) DO UPDATE
SET head_block = excluded.head_block, seen_at = clock_timestamp(),
    final_block = coalesce(excluded.final_block, trace.follower_heads.final_block);

-- name: saw_error
INSERT INTO trace.follower_heads (follower, head_block, errors, last_error, last_error_at)
VALUES (%(follower)s, -1, 1, %(error)s, clock_timestamp())
ON CONFLICT (follower) DO UPDATE
SET errors = trace.follower_heads.errors + 1, last_error = excluded.last_error,
    last_error_at = excluded.last_error_at;

-- name: move_cursor
INSERT INTO trace.followers (
    follower, chain_id, first_block, datasets, cursor_block, cursor_hash, cursor_time, blocks)
VALUES (%(follower)s, %(chain_id)s, %(first_block)s, %(datasets)s, %(cursor_block)s, %(cursor_hash)s,
        to_timestamp(%(cursor_time)s), %(blocks)s)
ON CONFLICT (follower) DO UPDATE
SET datasets = excluded.datasets, cursor_block = excluded.cursor_block, cursor_hash = excluded.cursor_hash,
    cursor_time = excluded.cursor_time, committed_at = clock_timestamp(),
    blocks = trace.followers.blocks + excluded.blocks;

-- name: keep_blocks
INSERT INTO trace.followed_blocks (follower, block_number, block_hash)
SELECT %(follower)s, number, hash FROM unnest(%(numbers)s::bigint[], %(hashes)s::bytea[]) AS one (number, hash);

-- name: forget_blocks
DELETE FROM trace.followed_blocks WHERE follower = %(follower)s AND block_number <= %(up_to_block)s;

-- name: orphan_blocks
-- Of the blocks above the common ancestor: note them and what stands in their place, and drop them.
WITH reorg AS (
    INSERT INTO trace.reorgs (follower, ancestor_block, old_cursor_block, new_cursor_block, depth)
    VALUES (%(follower)s, %(ancestor_block)s, %(old_cursor_block)s, %(new_cursor_block)s, %(depth)s)
    RETURNING reorg_id
), gone AS (
    DELETE FROM trace.followed_blocks
    WHERE follower = %(follower)s AND block_number > %(ancestor_block)s
    RETURNING block_number, block_hash
), kept AS (
    INSERT INTO trace.orphaned_blocks (reorg_id, follower, block_number, block_hash, replaced_by)
    SELECT reorg_id, %(follower)s, gone.block_number, gone.block_hash, new.hash
    FROM reorg CROSS JOIN gone
    LEFT JOIN unnest(%(numbers)s::bigint[], %(hashes)s::bytea[]) AS new (number, hash)
        ON new.number = gone.block_number
), stale AS (
    INSERT INTO trace.invalidations (dag, job, start_block, end_block, reason, branch_hash)
    VALUES (%(dag)s, %(job)s, %(ancestor_block)s + 1, %(old_cursor_block)s, 'reorg', %(cursor_hash)s)
)
UPDATE trace.followers
SET reorgs = reorgs + 1, deepest_reorg = greatest(deepest_reorg, %(depth)s), last_reorg_at = clock_timestamp()
WHERE follower = %(follower)s;

-- name: reorgs_of
SELECT reorg_id, ancestor_block, old_cursor_block, new_cursor_block, depth, seen_at FROM trace.reorgs
WHERE follower = %(follower)s ORDER BY reorg_id;

-- name: orphaned_blocks
SELECT reorg_id, block_number, block_hash, replaced_by FROM trace.orphaned_blocks
WHERE follower = %(follower)s ORDER BY reorg_id, block_number;

-- name: invalidations
SELECT invalidation_id, start_block, end_block, reason, branch_hash, made_at FROM trace.invalidations
WHERE dag = %(dag)s AND job = %(job)s AND invalidation_id > %(after)s ORDER BY invalidation_id;

-- name: last_invalidation
SELECT invalidation_id, start_block, end_block, reason, branch_hash, made_at FROM trace.invalidations
WHERE dag = %(dag)s AND job = %(job)s AND start_block <= %(end_block)s AND end_block >= %(start_block)s
ORDER BY invalidation_id DESC LIMIT 1;

-- name: hand_on_invalidation
INSERT INTO trace.invalidations (dag, job, start_block, end_block, reason, branch_hash, source_id)
SELECT %(dag)s, one.job, %(start_block)s, %(end_block)s, reason, branch_hash, invalidation_id
FROM trace.invalidations CROSS JOIN unnest(%(jobs)s::text[]) AS one (job)
WHERE invalidation_id = %(invalidation_id)s
ON CONFLICT (source_id, dag, job, start_block) DO NOTHING;

-- name: was_reset
SELECT 1 FROM trace.follower_resets WHERE follower = %(follower)s;

-- name: note_reset
INSERT INTO trace.follower_resets (follower) VALUES (%(follower)s) ON CONFLICT DO NOTHING;

-- name: forget_reset
DELETE FROM trace.follower_resets WHERE follower = %(follower)s;

-- name: forget_follower
-- What reads the follower has rows of blocks that are gone.
WITH stale AS (
    INSERT INTO trace.invalidations (dag, job, start_block, end_block, reason)
    SELECT split_part(follower, '/', 1), split_part(follower, '/', 2), first_block, cursor_block, 'reset'
    FROM trace.followers WHERE follower = %(follower)s
),
cursor AS (DELETE FROM trace.followers WHERE follower = %(follower)s),
head AS (DELETE FROM trace.follower_heads WHERE follower = %(follower)s)
DELETE FROM trace.followed_blocks WHERE follower = %(follower)s;

-- name: consumers
SELECT consumer, first_block, cursor_block, seen, tables, definition, committed_at, blocks FROM trace.consumers
WHERE %(consumer)s::text IS NULL OR consumer = %(consumer)s
ORDER BY consumer;

-- name: extent
-- The blocks whose rows a follower or a consumer has committed.
SELECT first_block, cursor_block FROM trace.followers WHERE follower = %(key)s
UNION ALL
SELECT first_block, cursor_block FROM trace.consumers WHERE consumer = %(key)s;

-- name: consume
INSERT INTO trace.consumers (consumer, first_block, cursor_block, seen, tables, definition, blocks)
VALUES (%(consumer)s, %(first_block)s, %(cursor_block)s, %(seen)s, %(tables)s, %(definition)s, %(blocks)s)
ON CONFLICT (consumer) DO UPDATE
SET first_block = excluded.first_block, cursor_block = excluded.cursor_block, seen = excluded.seen,
    tables = ARRAY(SELECT DISTINCT unnest(trace.consumers.tables || excluded.tables) ORDER BY 1),
    definition = excluded.definition, committed_at = clock_timestamp(),
    blocks = trace.consumers.blocks + excluded.blocks;

-- name: forget_consumer
WITH stale AS (
    INSERT INTO trace.invalidations (dag, job, start_block, end_block, reason)
    SELECT split_part(consumer, '/', 1), split_part(consumer, '/', 2), first_block, cursor_block, 'reset'
    FROM trace.consumers WHERE consumer = %(consumer)s
)
DELETE FROM trace.consumers WHERE consumer = %(consumer)s;

-- name: invalidate
INSERT INTO trace.invalidations (dag, job, start_block, end_block, reason)
VALUES (%(dag)s, %(job)s, %(start_block)s, %(end_block)s, %(reason)s);
