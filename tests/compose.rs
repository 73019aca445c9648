//! The containers' deployment: what it runs is understood, what it promises is configured.

use std::{fs, path::Path};

use everpost_core::role::Role;
use serde_yaml_ng::Value;

use crate::harness::process::run;

const FILE: &str = "docker-compose.yml";

/// The services, with what they share filled in.
fn services() -> Vec<(String, Value)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let text = fs::read_to_string(file).expect("it is there");
    let mut compose: Value = serde_yaml_ng::from_str(&text).expect("it is YAML");
    // Twice: what a service shares shares something itself.
    compose.apply_merge().and_then(|()| compose.apply_merge()).expect("its merges are sound");
    let services = compose["services"].as_mapping().expect("it has services").clone();
    services.into_iter().map(|(name, service)| (name.as_str().expect("a name").to_owned(), service)).collect()
}

/// The services that run our program.
fn ours() -> Vec<(String, Value)> {
    services().into_iter().filter(|(name, _)| !["redis", "postgres"].contains(&name.as_str())).collect()
}

/// A command in either of the forms it may have.
fn words(service: &Value) -> Vec<String> {
    match &service["command"] {
        Value::String(line) => line.split_whitespace().map(str::to_owned).collect(),
        Value::Sequence(words) => words.iter().map(word).collect(),
        _ => Vec::new(),
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => serde_yaml_ng::to_string(other).expect("a scalar").trim().to_owned(),
    }
}

/// The first word that is not a flag, which is the command.
fn command(service: &Value) -> String {
    words(service).into_iter().find(|word| !word.starts_with('-') && word != "everpost").unwrap_or_default()
}

#[test]
fn every_command_is_understood() {
    for (name, service) in ours() {
        let words = words(&service);
        let arguments = words.iter().map(String::as_str).skip_while(|word| *word == "everpost");
        let done = run(Path::new("/"), &[], &arguments.chain(["--help"]).collect::<Vec<_>>());
        assert!(done.status.success(), "{name}: {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn redis_keeps_what_it_acknowledges() {
    let (_, redis) = services().into_iter().find(|(name, _)| name == "redis").expect("there is a redis");
    let line = words(&redis).join(" ");
    for setting in ["--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"] {
        assert!(line.contains(setting), "{setting} is missing in {line:?}");
    }
}

#[test]
fn every_part_has_its_service() {
    let services = ours();
    let running = |wanted: &str| services.iter().filter(|(_, service)| command(service) == wanted).count();
    assert_eq!((running("migrate"), running("gateway")), (1, 2));
    let help = run(Path::new("/"), &[], &["worker", "--help"]);
    let help = String::from_utf8(help.stdout).expect("text");
    for role in Role::ALL.map(Role::as_str) {
        assert!(help.contains(role), "the help names {role}");
        let works = |service: &Value| words(service).windows(2).any(|pair| pair == ["--roles", role]);
        assert!(services.iter().any(|(name, service)| name == role && works(service)), "no service for {role}");
    }
}

#[test]
fn all_of_it_is_one_build() {
    let services = ours();
    let images: Vec<_> = services.iter().map(|(_, service)| (&service["build"], &service["image"])).collect();
    let named: Vec<_> = images.iter().map(|(_, image)| image).filter(|image| !image.is_null()).collect();
    assert!(images.iter().any(|(build, _)| !build.is_null()), "something builds it");
    let same_build = images.windows(2).all(|pair| pair[0].0 == pair[1].0);
    let same_image = named.len() == images.len() && named.windows(2).all(|pair| pair[0] == pair[1]);
    assert!(same_build || same_image, "one image for all of them");
}
