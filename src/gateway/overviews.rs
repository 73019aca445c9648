//! Conversations as their participants see them: the last event, what is unread, and how far everybody is.
//!
//! All of it is as of what the database has, which is a moment behind the log.

use std::sync::Arc;

use axum::{Json, extract::State};
use everpost_core::{
    event::Record,
    name::{ConversationId, UserId},
    store::{Activity, Conversation, Overview, Reach},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Gateway,
    auth::Principal,
    conversations::ConversationView,
    error::ApiError,
    extract::{Path, Query, conversation_id},
    frame,
};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;

#[derive(Deserialize)]
pub(super) struct ListParameters {
    limit: Option<usize>,
    before: Option<String>,
}

/// A conversation with what is new in it.
#[derive(Serialize)]
pub(super) struct OverviewView {
    #[serde(flatten)]
    conversation: ConversationView,
    /// As a page of history has it, whatever kind of event it is.
    last_message: Option<Box<RawValue>>,
    last_seq: u64,
    #[serde(flatten)]
    own: Option<OwnView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    marks: Option<Vec<MarksView>>,
}

/// How far the one who asks has come.
#[derive(Serialize)]
struct OwnView {
    unread_count: u64,
    read_up_to: u64,
    delivered_up_to: u64,
}

/// How far a participant has come.
#[derive(Serialize)]
struct MarksView {
    user_id: UserId,
    read_up_to: u64,
    delivered_up_to: u64,
}

#[derive(Serialize)]
pub(super) struct ListView {
    conversations: Vec<OverviewView>,
    /// What to give as `before` for the next page.
    next: Option<String>,
}

impl OverviewView {
    fn new(conversation: Conversation, last: Option<&Record>, own: Option<Reach>) -> Self {
        let last_seq = last.and_then(|record| record.event().ok()).map_or(0, |event| event.seq);
        let own = own.map(|Reach { delivered, read }| OwnView {
            unread_count: last_seq.saturating_sub(read),
            read_up_to: read,
            delivered_up_to: delivered,
        });
        let last_message = last.and_then(frame::message);
        Self { conversation: conversation.into(), last_message, last_seq, own, marks: None }
    }
}

/// `GET /v1/conversations`: those of the one who asks, the most recently active first.
pub(super) async fn list_conversations(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Query(parameters): Query<ListParameters>,
) -> Result<Json<ListView>, ApiError> {
    let limit = parameters.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid("invalid_limit", format!("limit is 1 to {MAX_LIMIT}")));
    }
    let behind = parameters.before.as_deref().map(place).transpose()?;
    gateway.settle_marks(&principal.user).await?;
    let page = gateway.store.overviews(&principal.user, behind.as_ref(), limit).await?;
    let last = page.last().filter(|_| page.len() == limit).map(|last| &last.activity);
    let next = last.map(|Activity { at_ms, conversation }| format!("{at_ms}.{conversation}"));
    let view =
        |overview: Overview| OverviewView::new(overview.conversation, overview.last.as_ref(), Some(overview.reach));
    Ok(Json(ListView { conversations: page.into_iter().map(view).collect(), next }))
}

/// The place a page ended at, as `next` told it.
fn place(text: &str) -> Result<Activity, ApiError> {
    let read = || {
        let (at_ms, conversation) = text.split_once('.')?;
        Some(Activity { at_ms: at_ms.parse().ok()?, conversation: ConversationId::new(conversation).ok()? })
    };
    read().ok_or_else(|| ApiError::invalid("bad_request", "before is what the page before gave as next"))
}

/// `GET /v1/conversations/{id}`: the same of one conversation, with the marks of everybody in it.
pub(super) async fn get_conversation(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<OverviewView>, ApiError> {
    let id = conversation_id(&id)?;
    gateway.authorise(&principal, &id).await?;
    gateway.settle_marks(&principal.user).await?;
    let found = gateway.store.conversation(&id).await?.ok_or(ApiError::NotFound("conversation"))?;
    let last = gateway.store.before(&id, None, 1).await?;
    let is_shown = found.participants.len() <= gateway.limits.max_receipt_participants;
    let of: &[UserId] = if is_shown { &found.participants } else { std::slice::from_ref(&principal.user) };
    let pairs: Vec<_> = of.iter().map(|user| (id.clone(), user.clone())).collect();
    let reaches: Vec<_> = of.iter().cloned().zip(gateway.store.reaches(&pairs).await?).collect();
    let own = reaches.iter().find(|(user, _)| *user == principal.user).map(|(_, reach)| *reach);
    let view = OverviewView::new(found, last.last(), own.filter(|_| !principal.is_backend));
    Ok(Json(OverviewView { marks: is_shown.then(|| reaches.into_iter().map(marks_view).collect()), ..view }))
}

fn marks_view((user_id, Reach { delivered, read }): (UserId, Reach)) -> MarksView {
    MarksView { user_id, read_up_to: read, delivered_up_to: delivered }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_a_page_gave() {
        let there = place("1700000000000.room.with.dots").expect("a place");
        assert_eq!((there.at_ms, there.conversation.as_str()), (1_700_000_000_000, "room.with.dots"));
        for wrong in ["", "17", "x.room", "17.", "-1.room", "17.a b"] {
            assert_eq!(place(wrong).expect_err("refused").code(), "bad_request", "{wrong}");
        }
    }
}
