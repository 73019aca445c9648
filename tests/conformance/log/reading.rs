//! Looking at the log without following it.

use everpost_core::{event::Record, log::Tail, name::ConversationId, position::Position, role::Role};
use tokio::task::JoinSet;

use super::{
    drafts::{append, begin, draft, drafts, finish, placed, rest},
    on_every_log,
    stage::Stage,
};

async fn a_read_starts_right_after_its_position(log: Stage) {
    begin(&*log, &["general"]).await;
    let records = placed(&*log, &drafts("general", 6)).await;
    let partition = log.partitions().of("general");
    for (at, record) in records.iter().enumerate() {
        assert_eq!(rest(&*log, partition, record.position).await, records[at + 1..]);
    }
    assert_eq!(rest(&*log, partition, Position::ZERO).await, records);
}

async fn a_read_may_start_inside_of_a_batch(log: Stage) {
    begin(&*log, &["general"]).await;
    append(&*log, &drafts("general", 20)).await;
    append(&*log, &drafts("general", 20)).await;
    let partition = log.partitions().of("general");
    let records = rest(&*log, partition, Position::ZERO).await;
    for at in [1, 19, 20, 21, 39] {
        assert_eq!(rest(&*log, partition, records[at - 1].position).await, records[at..]);
    }
}

async fn nothing_follows_the_end(log: Stage) {
    let partition = log.partitions().of("general");
    assert_eq!(log.read_after(partition, Position::ZERO, 10).await.expect("readable"), Tail::Records(vec![]));
    begin(&*log, &["general"]).await;
    append(&*log, &drafts("general", 3)).await;
    let end = log.ends().await.expect("readable")[partition.index()];
    assert_eq!(log.read_after(partition, end, 10).await.expect("readable"), Tail::Records(vec![]));
}

async fn pages_are_about_as_large_as_asked_and_without_gaps(log: Stage) {
    begin(&*log, &["general"]).await;
    for _ in 0..10 {
        append(&*log, &drafts("general", 10)).await;
    }
    let partition = log.partitions().of("general");
    let (mut at, mut found) = (Position::ZERO, 0);
    while found < 100 {
        let Tail::Records(page) = log.read_after(partition, at, 10).await.expect("readable") else { panic!("trimmed") };
        assert!((1..=64).contains(&page.len()), "{} records", page.len());
        assert_eq!(page[0].position.offset(), at.offset() + 1);
        assert!(page.windows(2).all(|pair| pair[0].position.next() == pair[1].position));
        at = page.last().expect("it has some").position;
        found += page.len();
    }
    assert_eq!(found, 100);
}

async fn a_reader_beside_senders_sees_no_gap(log: Stage) {
    begin(&*log, &["general"]).await;
    let mut senders = JoinSet::new();
    for _ in 0..4 {
        let log = log.share();
        senders.spawn(async move {
            for _ in 0..25 {
                append(&*log, &[draft("general"), draft("general")]).await;
            }
        });
    }
    let (partition, mut seen) = (log.partitions().of("general"), Vec::<Record>::new());
    while seen.len() < 200 {
        let at = seen.last().map_or(Position::ZERO, |record| record.position);
        let Tail::Records(more) = log.read_after(partition, at, 500).await.expect("readable") else {
            panic!("trimmed")
        };
        seen.extend(more);
        tokio::task::yield_now().await;
    }
    senders.join_all().await;
    let seqs: Vec<u64> = seen.iter().map(|record| record.event().expect("well formed").seq).collect();
    assert_eq!(seqs, (1..=200).collect::<Vec<_>>());
}

async fn a_look_tells_the_ends_and_what_each_role_has_before_it(log: Stage) {
    let nothing = log.vitals().await.expect("readable");
    assert_eq!(
        (nothing.ends.clone(), nothing.backlog(Role::Persist).sum::<u64>()),
        (log.ends().await.expect("readable"), 0)
    );
    begin(&*log, &["general"]).await;
    append(&*log, &drafts("general", 30)).await;
    let partition = log.partitions().of("general");
    finish(&*log, Role::Fanout, partition).await;
    append(&*log, &drafts("general", 12)).await;
    let vitals = log.vitals().await.expect("readable");
    assert_eq!(vitals.ends, log.ends().await.expect("readable"));
    let before = |role| vitals.backlog(role).nth(partition.index());
    assert_eq!((before(Role::Persist), before(Role::Fanout)), (Some(42), Some(12)));
    assert_eq!(log.faults().await.expect("readable"), Vec::<String>::new());
}

async fn the_last_numbers_are_told_in_the_order_asked(log: Stage) {
    begin(&*log, &["general"]).await;
    append(&*log, &drafts("general", 7)).await;
    let name = |name: &str| ConversationId::new(name).expect("a name");
    let partition = log.partitions().of("general");
    let asked = [name("nowhere"), name("general")];
    assert_eq!(log.tops_of(partition, &asked).await.expect("readable"), [0, 7]);
    assert_eq!(log.tops_of(partition, &[]).await.expect("readable"), Vec::<u64>::new());
}

on_every_log!(
    a_look_tells_the_ends_and_what_each_role_has_before_it,
    a_read_starts_right_after_its_position,
    a_read_may_start_inside_of_a_batch,
    nothing_follows_the_end,
    pages_are_about_as_large_as_asked_and_without_gaps,
    a_reader_beside_senders_sees_no_gap,
    the_last_numbers_are_told_in_the_order_asked,
);
