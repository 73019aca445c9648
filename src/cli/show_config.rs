//! `everpost config`: the settings in force.

use super::flags::Flags;

pub(super) fn run(flags: &Flags) -> anyhow::Result<()> {
    for (name, value) in flags.effective()? {
        println!("{name} = {value}");
    }
    Ok(())
}
