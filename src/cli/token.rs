//! `everpost token`: mints a token with the secret the server checks.

use clap::Args;
use everpost_core::{
    clock::now_ms,
    name::{DeviceId, UserId},
};

use super::flags::Flags;
use crate::{
    config::{ConfigError, Settings},
    gateway::auth::Claims,
};

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// Who the token is for
    #[arg(long, value_name = "ID")]
    user: String,
    /// How long it lasts
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: humantime::Duration,
    /// What its messages name as the type of their sender [default: user]
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// The device, which then has a cursor of its own on the server
    #[arg(long, value_name = "ID")]
    device: Option<String>,
}

pub(super) fn run(flags: &Flags, args: &TokenArgs) -> anyhow::Result<()> {
    let settings = flags.settings()?;
    UserId::new(&args.user)?;
    args.device.as_ref().map(DeviceId::new).transpose()?;
    let token = mint(&settings, &args.user, args.ttl.as_secs(), args.role.clone(), args.device.clone())?;
    println!("{token}");
    Ok(())
}

pub(super) fn mint(
    settings: &Settings,
    user: &str,
    ttl_seconds: u64,
    role: Option<String>,
    device_id: Option<String>,
) -> anyhow::Result<String> {
    let exp = (now_ms() / 1_000).saturating_add(ttl_seconds);
    let claims = Claims { sub: user.to_owned(), exp, role, device_id, device_type: None };
    let rules = settings.token_rules();
    if ttl_seconds > rules.max_lifetime.as_secs() {
        let why = "the server would refuse a token that lasts longer than max_token_lifetime: ask for less with --ttl";
        return Err(ConfigError::Unsound(why.to_owned()).into());
    }
    Ok(rules.mint(&settings.token_secret()?, &claims)?)
}
