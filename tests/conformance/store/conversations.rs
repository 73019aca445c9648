//! Conversations and membership.

use everpost_core::store::{Conversation, Created, NewConversation, Standing};

use super::{
    on_every_store,
    records::{conversation, user},
    stage::Stage,
};

async fn a_conversation_reads_back_with_sorted_participants(store: Stage) {
    let mut new = new("general", &["bob", "Zoe", "alice", "bob"]);
    new.title = Some("Grüße 🎈 'n' \"all\"".to_owned());
    assert_eq!(store.create(&new).await.expect("writable"), Created::New);
    let found = store.conversation(&new.id).await.expect("readable").expect("it exists");
    let participants = ["Zoe", "alice", "bob"].map(user).to_vec();
    let expected = Conversation { id: new.id, title: new.title, participants, created_ms: new.created_ms };
    assert_eq!(found, expected);
}

async fn an_empty_conversation_is_one(store: Stage) {
    create(&store, "empty", &[]).await;
    let found = store.conversation(&conversation("empty")).await.expect("readable").expect("it exists");
    assert_eq!((found.title, found.participants), (None, vec![]));
}

async fn a_taken_name_changes_nothing(store: Stage) {
    create(&store, "general", &["alice"]).await;
    let before = store.conversation(&conversation("general")).await.expect("readable");
    let again = NewConversation { title: Some("mine".to_owned()), created_ms: 9, ..new("general", &["mallory"]) };
    assert_eq!(store.create(&again).await.expect("writable"), Created::Exists);
    assert_eq!(store.conversation(&again.id).await.expect("readable"), before);
}

async fn one_of_several_creators_wins_with_all_it_brought(store: Stage) {
    let rivals: Vec<NewConversation> = (0..8).map(|n| new("race", &[&*format!("a{n}"), &*format!("b{n}")])).collect();
    let outcomes = futures_util::future::join_all(rivals.iter().map(|rival| store.create(rival))).await;
    let winners = outcomes.into_iter().map(|outcome| outcome.expect("writable")).zip(&rivals);
    let winners: Vec<_> = winners.filter(|(outcome, _)| *outcome == Created::New).map(|(_, rival)| rival).collect();
    let found = store.conversation(&conversation("race")).await.expect("readable").expect("it exists");
    assert_eq!(winners.len(), 1);
    assert_eq!(found.participants, winners[0].participants);
}

async fn several_come_in_the_order_asked_without_the_unknown(store: Stage) {
    create(&store, "a", &["alice"]).await;
    create(&store, "b", &["bob", "alice"]).await;
    let found = store.conversations(&["b", "nothing", "a"].map(conversation)).await.expect("readable");
    let ids: Vec<&str> = found.iter().map(|found| found.id.as_str()).collect();
    assert_eq!(ids, ["b", "a"]);
    assert_eq!(found[0].participants, ["alice", "bob"].map(user));
    assert!(store.conversations(&[]).await.expect("readable").is_empty());
    assert_eq!(store.conversation(&conversation("nothing")).await.expect("readable"), None);
}

async fn the_conversations_of_users_are_sorted_in_the_order_asked(store: Stage) {
    for (id, members) in [("b", &["alice", "bob"][..]), ("a", &["alice"]), ("B", &["alice"]), ("c", &["bob"])] {
        create(&store, id, members).await;
    }
    let lists = store.conversations_of(&["bob", "nobody", "alice"].map(user)).await.expect("readable");
    assert_eq!(lists, [["b", "c"].map(conversation).to_vec(), vec![], ["B", "a", "b"].map(conversation).to_vec()]);
}

async fn standings_tell_participants_strangers_and_the_unknown_apart(store: Stage) {
    create(&store, "general", &["alice"]).await;
    let asked = [("general", "bob"), ("nothing", "alice"), ("general", "alice"), ("general", "bob")];
    let asked = asked.map(|(id, name)| (conversation(id), user(name)));
    let expected = [Standing::Stranger, Standing::Unknown, Standing::Participant, Standing::Stranger];
    assert_eq!(store.standings(&asked).await.expect("readable"), expected);
    assert!(store.standings(&[]).await.expect("readable").is_empty());
}

async fn participants_come_and_go_once(store: Stage) {
    create(&store, "general", &["alice"]).await;
    let (general, bob) = (conversation("general"), user("bob"));
    assert_eq!(store.add_participant(&general, &bob).await.expect("writable"), Some(true));
    assert_eq!(store.add_participant(&general, &bob).await.expect("writable"), Some(false));
    assert_eq!(store.conversations_of(std::slice::from_ref(&bob)).await.expect("readable"), [[general.clone()]]);
    assert_eq!(store.remove_participant(&general, &bob).await.expect("writable"), Some(true));
    assert_eq!(store.remove_participant(&general, &bob).await.expect("writable"), Some(false));
    let left = store.conversation(&general).await.expect("readable").expect("it exists");
    assert_eq!(left.participants, [user("alice")]);
}

async fn nobody_joins_or_leaves_what_does_not_exist(store: Stage) {
    let (nothing, alice) = (conversation("nothing"), user("alice"));
    assert_eq!(store.add_participant(&nothing, &alice).await.expect("writable"), None);
    assert_eq!(store.remove_participant(&nothing, &alice).await.expect("writable"), None);
    assert_eq!(store.conversations_of(&[alice]).await.expect("readable"), [[]]);
}

async fn conversations_are_there_after_a_restart(store: Stage) {
    create(&store, "general", &["alice", "bob"]).await;
    let before = store.conversation(&conversation("general")).await.expect("readable");
    let store = store.reopen().await;
    assert_eq!(store.conversation(&conversation("general")).await.expect("readable"), before);
    assert_eq!(store.create(&new("general", &[])).await.expect("writable"), Created::Exists);
}

fn new(id: &str, participants: &[&str]) -> NewConversation {
    let participants = participants.iter().map(|name| user(name)).collect();
    NewConversation { id: conversation(id), title: None, participants, created_ms: 1_700_000_000_000 }
}

async fn create(store: &Stage, id: &str, participants: &[&str]) {
    assert_eq!(store.create(&new(id, participants)).await.expect("writable"), Created::New);
}

on_every_store!(
    a_conversation_reads_back_with_sorted_participants,
    an_empty_conversation_is_one,
    a_taken_name_changes_nothing,
    one_of_several_creators_wins_with_all_it_brought,
    several_come_in_the_order_asked_without_the_unknown,
    the_conversations_of_users_are_sorted_in_the_order_asked,
    standings_tell_participants_strangers_and_the_unknown_apart,
    participants_come_and_go_once,
    nobody_joins_or_leaves_what_does_not_exist,
    conversations_are_there_after_a_restart,
);
