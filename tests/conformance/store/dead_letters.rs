//! Giving events up, looking at them, and putting them back.

use bytes::Bytes;
use everpost_core::{
    event::{Event, Record},
    lease::Lease,
    role::Role,
    store::{DeadLetters, Death, Decision, Fate, Reason, Redriven, Sieve, StoreError},
};
use uuid::Uuid;

use super::{
    on_every_store,
    records::{all, conversation, keyed, lease, persist, position, record, run, user},
    stage::Stage,
};

async fn an_event_given_up_leaves_a_tombstone_and_a_letter(store: Stage) {
    let records = [record("general", 1), keyed("general", 2, "bob", Some("k")), record("general", 3)];
    persist(&*store, &records[..1]).await;
    let id = bury(&*store, &records[1]).await.expect("it is new");
    persist(&*store, &records[2..]).await;
    let data = format!(r#"{{"reason":"refused","dead_letter":"{id}"}}"#);
    let event = records[1].event().expect("well formed");
    let tombstone = Record::of(&Event { name: "tombstone", data: &data, ..event });
    assert_eq!(all(&*store, "general").await, [records[0].clone(), tombstone, records[2].clone()]);
    let letter = store.dead_letter(id).await.expect("readable").expect("it exists");
    let fields = (letter.conversation.as_deref(), letter.seq, letter.sender.as_deref(), letter.key.as_deref());
    assert_eq!(fields, (Some("general"), Some(2), Some("bob"), Some("k")));
    assert_eq!((letter.message_id, letter.position), (Some(event.message_id), position(2)));
    assert_eq!((letter.role.as_str(), letter.partition, letter.reason.as_str()), ("persist", 0, "refused"));
    assert_eq!((letter.event.as_deref(), letter.detail.as_str()), (Some("new_message"), "because"));
    assert_eq!((letter.attempts, letter.first_failed_ms, letter.last_failed_ms), (3, 7, 8));
    assert_eq!((letter.fate, letter.decision), (Fate::Dead, None));
    assert_eq!(payload(&*store, id).await.as_deref(), Some(&records[1].data[..]));
    assert_eq!(store.stored(1).await.expect("readable"), [position(3)]);
}

async fn giving_up_twice_or_too_late_changes_nothing(store: Stage) {
    let records = run("general", 1..=2);
    persist(&*store, &records[..1]).await;
    assert_eq!(bury(&*store, &records[0]).await, None, "it is stored");
    let id = bury(&*store, &records[1]).await.expect("it is new");
    assert_eq!(bury(&*store, &records[1]).await, None);
    assert_eq!(persist(&*store, &records).await, 0, "a replay finds the tombstone in its place");
    assert_eq!(ids(&*store, &Sieve::default()).await, [id]);
}

async fn only_the_newest_owner_gives_up(store: Stage) {
    store.persist(&[lease(0, 9, position(1))], &[]).await.expect("the newer one");
    let record = record("general", 2);
    let late = store.bury(&death(&record)).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    assert_eq!(all(&*store, "general").await, []);
    assert_eq!(store.count_dead_letters(&Sieve::default()).await.expect("readable"), 0);
}

async fn another_event_in_its_place_is_a_fork(store: Stage) {
    let first = record("general", 1);
    persist(&*store, std::slice::from_ref(&first)).await;
    let refused = store.bury(&death(&record("general", 1))).await;
    assert!(matches!(refused, Err(StoreError::Fork(at)) if at == position(1)), "{refused:?}");
    assert_eq!(all(&*store, "general").await, [first]);
}

async fn a_tombstone_answers_for_its_key(store: Stage) {
    let dead = keyed("general", 1, "bob", Some("k"));
    bury(&*store, &dead).await;
    let ask = (conversation("general"), user("bob"), everpost_core::identity::Key::new("k").expect("a key"));
    let prior = store.priors(&[ask]).await.expect("readable").remove(0).expect("the key is known");
    assert_eq!((prior.seq, prior.message_id), (1, dead.event().expect("well formed").message_id));
}

async fn a_tombstone_does_without_what_cannot_be_stored(store: Stage) {
    store.refuse("sender_id", "mallory").await;
    let id = bury(&*store, &keyed("general", 1, "mallory", Some("k"))).await.expect("it is new");
    let stored = all(&*store, "general").await;
    let event = stored[0].event().expect("well formed");
    assert_eq!((event.name, event.sender, event.key), ("tombstone", "system", None));
    let letter = store.dead_letter(id).await.expect("readable").expect("it exists");
    assert_eq!(letter.sender.as_deref(), Some("mallory"));
}

async fn a_tombstone_that_is_refused_too_gives_nothing_up(store: Stage) {
    store.refuse("conversation_id", "general").await;
    let refused = store.bury(&death(&record("general", 1))).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(store.count_dead_letters(&Sieve::default()).await.expect("readable"), 0);
    assert_eq!(store.stored(1).await.expect("readable")[0], everpost_core::position::Position::ZERO);
}

async fn what_cannot_be_read_keeps_its_bytes_and_its_place_if_that_is_legible(store: Stage) {
    let header = "1 1 never ? \u{1b} ? general ? -";
    let half = Record { position: position(1), header: Bytes::from(header), data: Bytes::from_static(b"\xff\0") };
    let nothing = Record { position: position(2), header: Bytes::from_static(b"\xfe"), data: Bytes::new() };
    let (first, second) = (bury(&*store, &half).await.expect("new"), bury(&*store, &nothing).await.expect("new"));
    let stored = all(&*store, "general").await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].event().expect("well formed").name, "tombstone");
    assert_eq!(payload(&*store, first).await.as_deref(), Some(&b"\xff\0"[..]));
    let letter = store.dead_letter(second).await.expect("readable").expect("it exists");
    assert_eq!((letter.conversation, letter.seq, letter.position), (None, None, position(2)));
    let refused = store.redrive(first, &decision()).await.expect("readable");
    assert!(matches!(refused, Redriven::Refused(_)), "{refused:?}");
    assert_eq!((bury(&*store, &half).await, bury(&*store, &nothing).await), (None, None));
    persist(&*store, &[record("general", 2)]).await;
}

async fn a_place_misread_is_no_fork(store: Stage) {
    persist(&*store, &run("general", 1..=2)).await;
    let data = Bytes::from_static(b"{}");
    let misread = Record { position: position(3), header: Bytes::from_static(b"1 2 ? ? ? ? general"), data };
    bury(&*store, &misread).await.expect("given up without a tombstone");
    assert_eq!(all(&*store, "general").await.len(), 2);
}

async fn a_redrive_fills_the_tombstone_once(store: Stage) {
    let records = [record("general", 1), keyed("general", 2, "bob", Some("k")), record("general", 3)];
    persist(&*store, &records[..1]).await;
    store.refuse("sender_id", "bob").await;
    let id = bury(&*store, &records[1]).await.expect("it is new");
    persist(&*store, &records[2..]).await;
    let refused = store.redrive(id, &decision()).await.expect("readable");
    assert!(matches!(refused, Redriven::Refused(_)), "{refused:?}");
    let letter = store.dead_letter(id).await.expect("readable").expect("it exists");
    assert_eq!((letter.fate, letter.attempts, letter.decision), (Fate::Dead, 4, None));
    store.forgive().await;
    let decided = decision();
    let (a, b) = tokio::join!(store.redrive(id, &decided), store.redrive(id, &decided));
    let mut outcomes = [a.expect("writable"), b.expect("writable")];
    outcomes.sort_by_key(|outcome| *outcome == Redriven::Already);
    assert_eq!(outcomes, [Redriven::Done, Redriven::Already]);
    assert_eq!(all(&*store, "general").await, records, "in its old place, as it was");
    let letter = store.dead_letter(id).await.expect("readable").expect("it exists");
    assert_eq!((letter.fate, letter.decision), (Fate::Redriven, Some(decision())));
    assert_eq!(store.redrive(Uuid::now_v7(), &decision()).await.expect("readable"), Redriven::Unknown);
}

async fn a_redrive_does_not_take_a_key_somebody_else_has_by_now(store: Stage) {
    store.refuse("sender_id", "bob").await;
    let id = bury(&*store, &keyed("general", 1, "bob", Some("k"))).await.expect("its tombstone has no key");
    store.forgive().await;
    let later = keyed("general", 2, "bob", Some("k"));
    persist(&*store, std::slice::from_ref(&later)).await;
    let refused = store.redrive(id, &decision()).await.expect("readable");
    assert!(matches!(refused, Redriven::Refused(_)), "{refused:?}");
    assert_eq!(all(&*store, "general").await[1], later);
}

async fn deleting_gives_up_the_payload_and_keeps_the_tombstone(store: Stage) {
    let id = bury(&*store, &record("general", 1)).await.expect("it is new");
    assert_eq!(store.delete_dead_letter(id, &decision()).await.expect("writable"), Some(true));
    assert_eq!(store.delete_dead_letter(id, &decision()).await.expect("writable"), Some(false));
    assert_eq!(store.delete_dead_letter(Uuid::now_v7(), &decision()).await.expect("writable"), None);
    assert_eq!(payload(&*store, id).await, None);
    let refused = store.redrive(id, &decision()).await.expect("readable");
    assert!(matches!(refused, Redriven::Refused(_)), "{refused:?}");
    assert_eq!(all(&*store, "general").await.len(), 1);
    let letter = store.dead_letter(id).await.expect("readable").expect("its history stays");
    assert_eq!((letter.fate, letter.decision), (Fate::Deleted, Some(decision())));
}

async fn letters_are_found_page_by_page(store: Stage) {
    let mut buried = Vec::new();
    for (id, seq) in [("a", 1), ("b", 2), ("a", 3), ("a", 4)] {
        buried.push(bury(&*store, &record(id, seq)).await.expect("it is new"));
    }
    store.delete_dead_letter(buried[2], &decision()).await.expect("writable");
    let everything = Sieve::default();
    assert_eq!(ids(&*store, &everything).await, buried, "in the order they came");
    let page = store.dead_letters(&everything, Some(buried[1]), 1).await.expect("readable");
    assert_eq!(page.iter().map(|letter| letter.id).collect::<Vec<_>>(), [buried[2]]);
    let dead_of_a = Sieve { role: Some(Role::Persist), conversation: Some(conversation("a")), fate: Some(Fate::Dead) };
    assert_eq!(ids(&*store, &dead_of_a).await, [buried[0], buried[3]]);
    assert_eq!(store.count_dead_letters(&dead_of_a).await.expect("readable"), 2);
    let of_fanout = Sieve { role: Some(Role::Fanout), ..Sieve::default() };
    assert_eq!(store.count_dead_letters(&of_fanout).await.expect("readable"), 0);
}

async fn a_role_that_stores_nothing_leaves_no_tombstone(store: Stage) {
    let record = record("general", 1);
    let lease = Lease { role: Role::Fanout, ..lease(0, 1, position(1)).0 };
    let id = store.bury(&Death { lease, ..death(&record) }).await.expect("writable").expect("it is new");
    assert_eq!(all(&*store, "general").await, []);
    assert!(bury(&*store, &record).await.is_some(), "another role's letter is another matter");
    assert_eq!(store.redrive(id, &decision()).await.expect("writable"), Redriven::Done);
}

async fn letters_are_there_after_a_restart(store: Stage) {
    let record = record("general", 1);
    let id = bury(&*store, &record).await.expect("it is new");
    let store = store.reopen().await;
    assert_eq!(payload(&*store, id).await.as_deref(), Some(&record.data[..]));
    assert_eq!(store.redrive(id, &decision()).await.expect("writable"), Redriven::Done);
    assert_eq!(all(&*store, "general").await, [record]);
}

fn death(record: &Record) -> Death<'_> {
    let lease = lease(0, 1, position(1)).0;
    let (reason, detail) = (Reason::Refused, "be\0cau\nse".to_owned());
    Death { lease, record, reason, detail, attempts: 3, first_failed_ms: 7, last_failed_ms: 8 }
}

fn decision() -> Decision {
    Decision { by: "ann".to_owned(), why: "it was a mistake".to_owned(), at_ms: 9 }
}

async fn bury(store: &(impl DeadLetters + ?Sized), record: &Record) -> Option<Uuid> {
    store.bury(&death(record)).await.expect("it can be given up")
}

async fn payload(store: &(impl DeadLetters + ?Sized), id: Uuid) -> Option<Vec<u8>> {
    store.dead_letter_payload(id).await.expect("readable")
}

async fn ids(store: &(impl DeadLetters + ?Sized), sieve: &Sieve) -> Vec<Uuid> {
    let found = store.dead_letters(sieve, None, 100).await.expect("readable");
    found.into_iter().map(|letter| letter.id).collect()
}

on_every_store!(
    an_event_given_up_leaves_a_tombstone_and_a_letter,
    giving_up_twice_or_too_late_changes_nothing,
    only_the_newest_owner_gives_up,
    another_event_in_its_place_is_a_fork,
    a_tombstone_answers_for_its_key,
    a_tombstone_does_without_what_cannot_be_stored,
    a_tombstone_that_is_refused_too_gives_nothing_up,
    what_cannot_be_read_keeps_its_bytes_and_its_place_if_that_is_legible,
    a_place_misread_is_no_fork,
    a_redrive_fills_the_tombstone_once,
    a_redrive_does_not_take_a_key_somebody_else_has_by_now,
    deleting_gives_up_the_payload_and_keeps_the_tombstone,
    letters_are_found_page_by_page,
    a_role_that_stores_nothing_leaves_no_tombstone,
    letters_are_there_after_a_restart,
);
