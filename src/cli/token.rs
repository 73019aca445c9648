//! `everpost token`: mints a token with the secret the server checks.

use clap::Args;
use everpost_core::{
    clock::now_ms,
    name::{DeviceId, UserId},
};
use secrecy::SecretString;

use super::flags::Flags;
use crate::gateway::auth::{self, Claims};

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
    let secret = flags.settings()?.token_secret()?;
    UserId::new(&args.user)?;
    args.device.as_ref().map(DeviceId::new).transpose()?;
    let token = mint(&secret, &args.user, args.ttl.as_secs(), args.role.clone(), args.device.clone())?;
    println!("{token}");
    Ok(())
}

pub(super) fn mint(
    secret: &SecretString,
    user: &str,
    ttl_seconds: u64,
    role: Option<String>,
    device_id: Option<String>,
) -> anyhow::Result<String> {
    let exp = now_ms() / 1_000 + ttl_seconds;
    let claims = Claims { sub: user.to_owned(), exp, role, device_id, device_type: None };
    Ok(auth::mint(secret, &claims)?)
}
