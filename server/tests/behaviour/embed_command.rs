//! `polylora embed` over an engine without a model.

use std::io;

use polylora_engine::{EmbedError, EmbedRequest};
use polylora_server::cli::OutputFormat;
use polylora_server::embed_command::{EmbedCommandError, Printing, print_embeddings};

use crate::fake_engine::{FakeEngine, expected};

fn printing(adapter: Option<&str>, format: OutputFormat) -> Printing {
    let adapter = adapter.map(str::to_owned);
    let template = EmbedRequest { adapter, truncate: true, ..EmbedRequest::default() };
    Printing { template, texts_a_request: 4, format }
}

fn texts(texts: &[&str]) -> impl Iterator<Item = io::Result<String>> {
    texts.iter().map(|&text| Ok(text.to_owned())).collect::<Vec<_>>().into_iter()
}

#[tokio::test]
async fn each_text_gives_one_json_array_on_its_own_line() {
    let mut out = Vec::new();
    let engine = FakeEngine::default();
    print_embeddings(&engine, printing(Some("law"), OutputFormat::Json), texts(&["a", "b"]), &mut out)
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
    print_embeddings(&FakeEngine::default(), printing(None, OutputFormat::Text), texts(&["a"]), &mut out)
        .await
        .expect("embedded");
    insta::assert_snapshot!(String::from_utf8(out).expect("UTF-8").trim_end(), @"0.1 0 -0.5 0.00000000000000000001");
}

#[tokio::test]
async fn an_empty_text_and_a_refusal_are_told_by_number() {
    let mut out = Vec::new();
    let engine = FakeEngine::default();
    let error =
        print_embeddings(&engine, printing(None, OutputFormat::Json), texts(&["", "a"]), &mut out).await;
    assert!(matches!(error, Err(EmbedCommandError::EmptyText { number: 1 })));
    let error =
        print_embeddings(&engine, printing(Some("x"), OutputFormat::Json), texts(&["a", "b"]), &mut out)
            .await;
    let Err(EmbedCommandError::Embed { first: 1, last: 2, source }) = error else { panic!("{error:?}") };
    assert_eq!(source, EmbedError::UnknownAdapter { name: "x".into() });
    assert!(out.is_empty());
}

#[tokio::test]
async fn what_stands_before_an_empty_or_unreadable_line_is_printed() {
    let unreadable = || Err(io::Error::from(io::ErrorKind::InvalidData));
    let empty = || Ok(String::new());
    for (flaw, lines) in [(empty as fn() -> io::Result<String>, 1), (empty, 4), (empty, 6), (unreadable, 6)] {
        let mut out = Vec::new();
        let engine = FakeEngine::default();
        let texts = (0..lines).map(|_| Ok("a".to_owned())).chain([flaw(), Ok("never".to_owned())]);
        let error = print_embeddings(&engine, printing(None, OutputFormat::Json), texts, &mut out)
            .await
            .expect_err("a flaw");
        match error {
            EmbedCommandError::EmptyText { number } => assert_eq!(number, lines + 1),
            error => assert!(matches!(error, EmbedCommandError::Read(_)), "{error}"),
        }
        assert_eq!(String::from_utf8(out).expect("UTF-8").lines().count(), lines);
    }
}

#[tokio::test]
async fn a_request_has_no_more_texts_than_it_may() {
    let engine = FakeEngine::default();
    let mut printing = printing(None, OutputFormat::Json);
    printing.texts_a_request = 2;
    print_embeddings(&engine, printing, texts(&["a", "b", "c"]), &mut Vec::new()).await.expect("embedded");
    let sizes: Vec<_> = engine.computed.lock().expect("no panic").iter().map(|r| r.inputs.len()).collect();
    assert_eq!(sizes, [2, 1]);
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
        print_embeddings(&engine, printing(None, format), texts(&["a"]), &mut Closed)
            .await
            .expect("no error");
    }
}
