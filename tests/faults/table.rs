//! All scenarios: numbers in the fault matrix, name, what is done, what must come of it.

use super::{
    clients, disks, embedded, network, pressure, processes, recovery, refused,
    scenario::{Engine::*, Scenario},
    servers, storage,
};

/// The reason, if one was given.
const fn reason(given: &[&'static str]) -> Option<&'static str> {
    if given.is_empty() { None } else { Some(given[0]) }
}

macro_rules! scenarios {
    ($($rows:literal $name:literal $engine:ident $rounds:expr, $fault:literal => $expected:literal, $run:path $(, $pending:expr)?;)*) => {
        pub(crate) const SCENARIOS: &[Scenario] = &[$(Scenario {
            rows: $rows,
            name: $name,
            engine: $engine,
            fault: $fault,
            expected: $expected,
            rounds: $rounds,
            pending: reason(&[$($pending)?]),
            run: |plan| Box::pin($run(plan)),
        }),*];
    };
}

scenarios! {
    "1" "gateway-killed" Distributed (1, 10), "kill -9 of a gateway" => "clients go on at the other, nothing stale in the routing", processes::gateway_is_killed;
    "2, 3" "worker-killed" Distributed (1, 10), "kill -9 of a worker" => "takeover p99 within 8 s", processes::worker_is_killed;
    "5" "workers-killed" Distributed (0, 5), "kill -9 of all workers" => "the backlog drains", processes::all_workers_are_killed;
    "6" "rolling-restart" Distributed (1, 3), "SIGTERM of everything in turn" => "handed over within a second", processes::rolling_restart;
    "7" "worker-stopped" Distributed (1, 4), "SIGSTOP of a worker, SIGCONT" => "it changes nothing afterwards", processes::worker_stands_still;
    "" "gateway-stopped" Distributed (0, 3), "SIGSTOP of a gateway, SIGCONT" => "clients leave it and come back", processes::gateway_stands_still;
    "9" "redis-killed" Distributed (2, 20), "kill -9 of Redis" => "resumes within 5 s of its return", servers::redis_is_killed;
    "12" "redis-restarted" Distributed (0, 5), "Redis stopped in order and started" => "resumes within 5 s", servers::redis_restarts;
    "13" "redis-flushed" Distributed (1, 10), "FLUSHALL" => "recovered within 5 s, unstored events come back", recovery::everything_is_flushed;
    "13" "redis-empty" Distributed (0, 5), "Redis restarts without its files" => "recovered within 5 s", recovery::redis_comes_back_empty;
    "14" "redis-older" Distributed (1, 10), "Redis restarts with files of 2 s ago" => "recovered within 5 s", recovery::redis_comes_back_older;
    "15" "aof-corrupt" Distributed (0, 5), "bytes flipped at the end of the append-only file, repaired" => "recovered within 5 s", recovery::the_tail_is_corrupt;
    "19" "group-destroyed" Distributed (0, 4), "XGROUP DESTROY" => "made anew where the store is", recovery::a_group_is_destroyed;
    "20" "entry-deleted" Distributed (0, 3), "XDEL of unstored entries" => "no hole stays, the stream goes on", recovery::entries_are_deleted;
    "21" "memory-full" Distributed (0, 3), "maxmemory reached" => "publishes put off, leases and storing go on", pressure::memory_is_full;
    "22" "policy-changed" Distributed (0, 2), "maxmemory-policy allkeys-lru" => "noticed within 30 s, nothing accepted meanwhile", pressure::policy_changes;
    "23" "postgres-down" Distributed (1, 3), "Postgres killed, back later" => "publishing and delivery go on, catch-up at 5 times the inflow", storage::postgres_is_down;
    "24" "postgres-restarted" Distributed (0, 20), "Postgres killed and started" => "recovers within 5 s each time", storage::postgres_restarts;
    "25" "commits-slow" Distributed (0, 2), "2 s for a transaction" => "batches grow, storing keeps up", storage::commits_are_slow;
    "27" "postgres-disk-full" Distributed (0, 2), "no room under Postgres" => "as without Postgres", disks::disk_under_postgres_is_full;
    "29" "redis-disk-slow" Distributed (0, 2), "each flush takes 500 ms" => "slower, nothing lost, leases stay", disks::disk_under_redis_is_slow;
    "30" "redis-disk-full" Distributed (0, 3), "no room under Redis" => "publishes put off, recovers with room", disks::disk_under_redis_is_full;
    "31" "embedded-disk-full" Embedded (0, 3), "no room under SQLite" => "publishes put off, recovers with room", embedded::disk_is_full;
    "32" "embedded-killed" Embedded (5, 200), "kill -9 of the one process" => "nothing lost, dense", embedded::process_is_killed;
    "34" "gateway-half-open" Distributed (0, 4), "a gateway and Redis hear nothing of each other" => "publishers told within 12 s", network::half_open;
    "35" "replies-lost" Distributed (1, 4), "requests reach Redis, replies are lost" => "repeats absorbed", network::replies_are_lost;
    "35" "requests-lost" Distributed (0, 3), "requests to Redis are lost" => "publishes put off, heals", network::requests_are_lost;
    "36" "gateways-cut-off" Distributed (0, 2), "gateways and Redis partitioned" => "publishes put off, heals within 10 s", network::gateways_are_cut_off;
    "37" "worker-cut-off" Distributed (0, 4), "a worker and Redis partitioned" => "taken over, late work is refused", network::worker_is_cut_off;
    "37" "commits-late" Distributed (1, 4), "a worker's commits arrive after its takeover" => "fenced by the database", network::commits_arrive_late;
    "" "store-cut-off" Distributed (0, 3), "workers and Postgres partitioned in three ways" => "publishing and delivery go on, heals", network::store_is_cut_off;
    "38" "sliced" Distributed (0, 2), "all ways in writes of one byte" => "no protocol error", network::everything_is_sliced;
    "" "reset" Distributed (0, 3), "all connections reset again and again" => "recovers within 10 s", network::everything_is_reset;
    "" "late" Distributed (0, 2), "20 to 60 ms between all parts" => "slower, nothing lost", network::everything_is_late;
    "39" "clients-half-open" Distributed (0, 3), "clients gone without a word" => "closed after the heartbeat timeout", network::clients_are_half_open;
    "40" "clients-slow" Distributed (0, 2), "500 clients that never read (100 in the short form)" => "bounded memory, others' p99 at most 1.2 times", clients::clients_are_slow;
    "41" "reconnect-storm" Distributed (0, 3), "600 clients cut off at once" => "all back within 30 s", clients::everybody_reconnects;
    "47" "conversation-busy" Distributed (0, 2), "1,000 messages a second to one conversation" => "others' p99 at most 1.2 times", clients::conversation_is_busy;
    "47" "conversations-refused" Distributed (0, 1), "the database refuses all of one conversation in a hundred" => "dead letters, others' p99 at most 1.2 times", refused::conversations_are_refused;
    "53" "scripts-forgotten" Distributed (0, 3), "SCRIPT FLUSH, DEBUG SLEEP 2" => "loaded again, leases stay", servers::scripts_are_forgotten;
    "53" "redis-stalls" Distributed (1, 3), "DEBUG SLEEP 3; SIGSTOP of Redis for 3 s" => "no lease changes hands", servers::redis_stalls;
    "58" "redis-restarted-without-postgres" Distributed (0, 3), "Redis killed while Postgres is down" => "waits for both, nothing lost", servers::redis_restarts_without_postgres;
    "59" "keys-deleted" Distributed (0, 3), "DEL of meta, tops, identities, log, leases, interests" => "recovered within 12 s", recovery::keys_are_deleted;
}
