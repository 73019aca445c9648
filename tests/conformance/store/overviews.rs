//! Lists of conversations, and how large they are.

use everpost_core::store::{Activity, Mark, NewConversation, Overview, Reach};

use super::{
    on_every_store,
    records::{conversation, persist, record, user},
    stage::Stage,
};
/// When the first record of a conversation was accepted, see `records`.
const LATER: u64 = 1_700_000_000_000;

async fn create(store: &Stage, id: &str, participants: &[&str], created_ms: u64) {
    let participants = participants.iter().map(|name| user(name)).collect();
    let new = NewConversation { id: conversation(id), title: Some(format!("The {id}")), participants, created_ms };
    store.create(&new).await.expect("writable");
}

async fn list(store: &Stage, name: &str, behind: Option<&Activity>, limit: usize) -> Vec<Overview> {
    store.overviews(&user(name), behind, limit).await.expect("readable")
}

fn ids(page: &[Overview]) -> Vec<&str> {
    page.iter().map(|overview| overview.conversation.id.as_str()).collect()
}

async fn the_most_recently_active_come_first(store: Stage) {
    for (id, created_ms) in [("a", 5), ("b", 9), ("c", 7), ("d", LATER + 2), ("e", 9)] {
        create(&store, id, &["alice"], created_ms).await;
    }
    create(&store, "another", &["bob"], LATER + 9).await;
    persist(&*store, &[record("a", 1), record("a", 2), record("a", 3), record("c", 1)]).await;
    assert_eq!(ids(&list(&store, "alice", None, 10).await), ["a", "d", "c", "e", "b"], "the same instant goes by name");
    assert!(list(&store, "nobody", None, 10).await.is_empty());
}

async fn a_list_tells_the_last_event_and_the_marks(store: Stage) {
    create(&store, "a", &["bob", "alice"], 5).await;
    create(&store, "b", &["alice"], 4).await;
    let last = record("a", 2);
    persist(&*store, &[record("a", 1), last.clone()]).await;
    let marks = [(conversation("a"), user("alice"), 1), (conversation("a"), user("bob"), 2)];
    store.advance(Mark::Read, &marks).await.expect("writable");
    store.advance(Mark::Delivered, &[(conversation("a"), user("alice"), 2)]).await.expect("writable");
    let page = list(&store, "alice", None, 10).await;
    assert_eq!(page[0].conversation.title.as_deref(), Some("The a"));
    assert_eq!(page[0].conversation.participants, ["alice", "bob"].map(user));
    assert_eq!((page[0].last.as_ref(), page[0].reach), (Some(&last), Reach { delivered: 2, read: 1 }));
    assert_eq!((page[1].last.as_ref(), page[1].reach), (None, Reach::default()));
    assert_eq!(page[0].activity, Activity { at_ms: LATER + 2, conversation: conversation("a") });
    assert_eq!(page[1].activity.at_ms, 4);
}

async fn pages_follow_each_other_without_a_gap(store: Stage) {
    let names: Vec<String> = (10..35).map(|n| format!("room-{n}")).collect();
    for (n, id) in names.iter().enumerate() {
        create(&store, id, &["alice"], n as u64 / 4).await; // several at the same instant
    }
    let (mut found, mut behind) = (Vec::new(), None);
    loop {
        let page = list(&store, "alice", behind.as_ref(), 4).await;
        found.extend(ids(&page).into_iter().map(str::to_owned));
        behind = page.last().map(|last| last.activity.clone());
        if page.len() < 4 {
            break;
        }
    }
    assert_eq!(found, names.into_iter().rev().collect::<Vec<_>>());
}

async fn sizes_are_counted_as_far_as_asked(store: Stage) {
    create(&store, "a", &["alice", "bob", "carol"], 0).await;
    create(&store, "b", &["alice"], 0).await;
    let asked = ["b", "nowhere", "a"].map(conversation);
    assert_eq!(store.sizes(&asked, 10).await.expect("readable"), [1, 0, 3]);
    assert_eq!(store.sizes(&asked, 2).await.expect("readable"), [1, 0, 2]);
    assert!(store.sizes(&[], 2).await.expect("readable").is_empty());
}

on_every_store!(
    the_most_recently_active_come_first,
    a_list_tells_the_last_event_and_the_marks,
    pages_follow_each_other_without_a_gap,
    sizes_are_counted_as_far_as_asked,
);
