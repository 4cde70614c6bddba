//! `polylora embed` over an engine without a model.

use std::io;

use polylora_engine::{EmbedError, EmbedRequest};
use polylora_server::cli::OutputFormat;
use polylora_server::embed_command::{EmbedCommandError, print_embeddings};

use crate::fake_engine::{FakeEngine, expected};

fn template(adapter: Option<&str>) -> EmbedRequest {
    let adapter = adapter.map(str::to_owned);
    EmbedRequest { inputs: vec![], adapter, prompt_name: None, dimensions: None, truncate: true }
}

fn texts(texts: &[&str]) -> impl Iterator<Item = io::Result<String>> {
    texts.iter().map(|&text| Ok(text.to_owned())).collect::<Vec<_>>().into_iter()
}

#[tokio::test]
async fn each_text_gives_one_json_array_on_its_own_line() {
    let mut out = Vec::new();
    let engine = FakeEngine::default();
    print_embeddings(&engine, template(Some("law")), texts(&["a", "b"]), OutputFormat::Json, &mut out)
        .await
        .expect("embedded");
    let lines: Vec<Vec<f32>> = String::from_utf8(out)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON array"))
        .collect();
    assert_eq!(lines, [expected(0, Some("law")), expected(1, Some("law"))]);
}

#[tokio::test]
async fn text_output_has_spaces_and_no_brackets() {
    let mut out = Vec::new();
    print_embeddings(&FakeEngine::default(), template(None), texts(&["a"]), OutputFormat::Text, &mut out)
        .await
        .expect("embedded");
    insta::assert_snapshot!(String::from_utf8(out).expect("UTF-8").trim_end(), @"0.1 0 -0.5 0.00000000000000000001");
}

#[tokio::test]
async fn an_empty_text_and_a_refusal_are_told_by_number() {
    let mut out = Vec::new();
    let engine = FakeEngine::default();
    let error =
        print_embeddings(&engine, template(None), texts(&["a", ""]), OutputFormat::Json, &mut out).await;
    assert!(matches!(error, Err(EmbedCommandError::EmptyText { number: 2 })));
    let error =
        print_embeddings(&engine, template(Some("x")), texts(&["a", "b"]), OutputFormat::Json, &mut out)
            .await;
    let Err(EmbedCommandError::Embed { first: 1, last: 2, source }) = error else { panic!("{error:?}") };
    assert_eq!(source, EmbedError::UnknownAdapter { name: "x".into() });
    assert!(out.is_empty());
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it_quietly() {
    struct Closed;
    impl io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for format in [OutputFormat::Json, OutputFormat::Text] {
        let engine = FakeEngine::default();
        print_embeddings(&engine, template(None), texts(&["a"]), format, &mut Closed)
            .await
            .expect("no error");
    }
}
