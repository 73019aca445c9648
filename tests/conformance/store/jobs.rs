//! Jobs: handed off once, due in time, settled by their owner, and there after a restart.

use std::time::Duration;

use everpost_core::{
    lease::Lease,
    partition::Partition,
    position::Position,
    role::Role,
    store::{Job, Jobs, NewJob, StoreError, Verdict},
};
use uuid::Uuid;

use super::{on_every_store, records::position, stage::Stage};
use crate::harness::eventually::eventually;

const NOW: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(3_600);

async fn jobs_are_due_in_the_order_of_their_times(store: Stage) {
    let jobs = [job(1, 0, Duration::from_millis(500)), job(1, 1, LATER), job(2, 0, NOW), job(3, 0, NOW)];
    assert_eq!(store.hand_off(&of(1), position(3), &jobs).await.expect("ours"), 4);
    let tasks = async || due(&*store, 1).await.into_iter().map(|job| job.task).collect::<Vec<_>>();
    eventually("the third is due as well", async || tasks().await.len() == 3).await;
    assert_eq!(tasks().await, ["2/0", "3/0", "1/0"]);
    assert_eq!(store.due(&of(1), 2).await.expect("ours").len(), 2, "as many as were asked for");
    assert_eq!(store.count_jobs(&of(1)).await.expect("readable"), 4);
}

async fn what_is_handed_off_again_is_taken_for_what_it_is(store: Stage) {
    let jobs = [job(1, 0, NOW), job(2, 0, NOW)];
    assert_eq!(store.hand_off(&of(1), position(2), &jobs).await.expect("ours"), 2);
    let first = due(&*store, 1).await.remove(0);
    assert!(store.settle(&of(1), first.id, Verdict::Done).await.expect("ours"));
    assert_eq!(store.hand_off(&of(1), position(2), &jobs).await.expect("ours"), 0, "nor is what is done done again");
    assert_eq!(store.hand_off(&of(2), position(3), &[job(2, 0, NOW), job(3, 0, NOW)]).await.expect("ours"), 1);
    let tasks: Vec<String> = due(&*store, 2).await.into_iter().map(|job| job.task).collect();
    assert_eq!(tasks, ["2/0", "3/0"]);
}

async fn a_job_comes_again_after_its_delay_and_goes_when_it_is_done(store: Stage) {
    store.hand_off(&of(1), position(1), &[job(1, 0, NOW)]).await.expect("ours");
    let first = due(&*store, 1).await.remove(0);
    assert_eq!((first.attempts, first.position, first.part), (0, position(1), 0));
    assert_eq!(due(&*store, 1).await, std::slice::from_ref(&first), "it stays due until it is settled");
    assert!(store.settle(&of(1), first.id, Verdict::Again(LATER)).await.expect("ours"));
    assert_eq!(due(&*store, 1).await, []);
    assert!(store.settle(&of(1), first.id, Verdict::Again(NOW)).await.expect("ours"));
    assert_eq!(due(&*store, 1).await, [Job { attempts: 2, ..first.clone() }]);
    assert!(store.settle(&of(1), first.id, Verdict::Done).await.expect("ours"));
    assert!(!store.settle(&of(1), first.id, Verdict::Done).await.expect("ours"), "twice is harmless");
    assert_eq!(store.count_jobs(&of(1)).await.expect("readable"), 0);
}

async fn only_the_newest_owner_has_a_say(store: Stage) {
    store.hand_off(&of(5), position(1), &[job(1, 0, NOW)]).await.expect("ours");
    store.hand_off(&of(6), position(1), &[]).await.expect("the next owner");
    let id = due(&*store, 6).await.remove(0).id;
    let late = [
        store.hand_off(&of(5), position(2), &[job(2, 0, NOW)]).await.map(drop),
        store.due(&of(5), 10).await.map(drop),
        store.settle(&of(5), id, Verdict::Done).await.map(drop),
    ];
    assert!(late.iter().all(|late| matches!(late, Err(StoreError::Fenced))), "{late:?}");
    assert_eq!(due(&*store, 6).await.len(), 1, "nothing was changed");
}

async fn partitions_and_roles_have_jobs_of_their_own(store: Stage) {
    let (other, role) = (Lease { partition: Partition(1), ..of(1) }, Lease { role: Role::Persist, ..of(1) });
    store.hand_off(&of(1), position(1), &[job(1, 0, NOW)]).await.expect("ours");
    for lease in [other, role] {
        assert_eq!(store.due(&lease, 10).await.expect("ours"), []);
        assert_eq!(store.hand_off(&lease, position(1), &[job(1, 0, NOW)]).await.expect("ours"), 1);
    }
    let id = due(&*store, 1).await.remove(0).id;
    assert!(!store.settle(&other, id, Verdict::Done).await.expect("ours"), "it is not of that partition");
    assert!(!store.settle(&of(1), Uuid::now_v7(), Verdict::Done).await.expect("ours"));
}

async fn jobs_are_there_after_a_restart_and_due_at_their_time(store: Stage) {
    let soon = Duration::from_millis(300);
    store.hand_off(&of(1), position(2), &[job(1, 0, soon), job(2, 0, LATER)]).await.expect("ours");
    let store = store.reopen().await;
    eventually("the first is due", async || due(&*store, 2).await.len() == 1).await;
    assert_eq!(store.count_jobs(&of(2)).await.expect("readable"), 2);
    assert_eq!(store.hand_off(&of(2), position(2), &[job(1, 0, NOW)]).await.expect("ours"), 0);
}

async fn handing_off_nothing_still_is_progress(store: Stage) {
    assert_eq!(store.hand_off(&of(1), position(4), &[]).await.expect("ours"), 0);
    assert_eq!(store.hand_off(&of(1), position(3), &[job(3, 0, NOW)]).await.expect("ours"), 0, "it was passed before");
    let later = NewJob { position: Position::new(2, 1), ..job(1, 0, NOW) };
    assert_eq!(store.hand_off(&of(1), later.position, &[later]).await.expect("ours"), 1, "a new generation is later");
}

fn of(token: u64) -> Lease {
    Lease { role: Role::Fanout, partition: Partition(0), token }
}

/// A job that is called by where it comes from.
fn job(seq: u64, part: u16, delay: Duration) -> NewJob {
    NewJob { position: position(seq), part, delay, task: format!("{seq}/{part}") }
}

async fn due(store: &(impl Jobs + ?Sized), token: u64) -> Vec<Job> {
    store.due(&of(token), 10).await.expect("ours")
}

on_every_store!(
    jobs_are_due_in_the_order_of_their_times,
    what_is_handed_off_again_is_taken_for_what_it_is,
    a_job_comes_again_after_its_delay_and_goes_when_it_is_done,
    only_the_newest_owner_has_a_say,
    partitions_and_roles_have_jobs_of_their_own,
    jobs_are_there_after_a_restart_and_due_at_their_time,
    handing_off_nothing_still_is_progress,
);
