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
