//! `xorfs passphrase`, `xorfs unlock` and `xorfs lock`: the keys at rest.

use crate::api::client::Client;
use crate::api::types::{PassphraseRequest, UnlockRequest};
use crate::args::PassphraseArgs;
use crate::attach::{with_daemon, with_locked_node};
use crate::exit::Failure;
use crate::home::Home;
use crate::passphrase::{self, Typed};

pub(crate) async fn passphrase(home: &Home, args: &PassphraseArgs) -> anyhow::Result<()> {
    let set = async |client: &Client| {
        let has_one = client.status().await?.keyring.passphrase;
        if args.remove && !has_one {
            return Err(Failure::refused("the keyring has no passphrase").into());
        }
        let current = if has_one { Some(Typed(passphrase::of_home(home)?)) } else { None };
        let new = match (&args.new_passphrase_file, home.passphrase_file()) {
            _ if args.remove => None,
            (Some(file), _) => Some(Typed(passphrase::from_file(file)?)),
            // Where there is none yet, the file that will open the keyring says it.
            (None, Some(file)) if !has_one => Some(Typed(passphrase::from_file(file)?)),
            _ => Some(Typed(ask_twice()?)),
        };
        client.set_passphrase(&PassphraseRequest { current, new }).await
    };
    with_locked_node(home, set).await
}

pub(crate) async fn unlock(home: &Home) -> anyhow::Result<()> {
    let unlock = async |client: &Client| {
        if !client.status().await?.keyring.locked {
            return Ok(());
        }
        let passphrase = Typed(passphrase::of_home(home)?);
        client.unlock(&UnlockRequest { passphrase }).await
    };
    with_daemon(home, unlock).await
}

pub(crate) async fn lock(home: &Home) -> anyhow::Result<()> {
    with_daemon(home, async |client: &Client| client.lock().await).await
}

fn ask_twice() -> anyhow::Result<xorfs_store::Passphrase> {
    let first = passphrase::ask("New passphrase")?;
    if passphrase::ask("New passphrase again")? != first {
        return Err(Failure::usage("the two passphrases differ; nothing was changed").into());
    }
    Ok(first)
}
