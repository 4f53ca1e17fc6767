//! `xorfs cat`: a file's content on standard output.

use std::io::{self, Write};

use futures_util::TryStreamExt;

use crate::api::client::Client;
use crate::args::CatArgs;
use crate::attach::with_node;
use crate::commands::get::download::ranges;
use crate::home::Home;
use crate::target;

pub(crate) async fn run(home: &Home, args: &CatArgs) -> anyhow::Result<()> {
    let target = target::parse(&args.source)?;
    let print = async |client: &Client| {
        let file = client.stat(&target.path).await?;
        let mut ranges = ranges(client, &target.path, 0..file.size);
        // A directory is refused by the first range, also where its size is 0.
        if file.size == 0 {
            client.read(&target.path, 0, 1).await?;
        }
        while let Some(bytes) = ranges.try_next().await? {
            io::stdout().write_all(&bytes)?;
        }
        Ok(io::stdout().flush()?)
    };
    with_node(home, print).await
}
