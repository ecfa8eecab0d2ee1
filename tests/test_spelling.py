"""What was meant: the word that is spelled most alike, or nothing."""

from ddattr.spelling import meant, nearest


def test_the_nearest_word_is_found_itself_first_and_none_where_none_is_alike():
    known = ["train", "retrain", "reproduce"]
    assert [nearest(word, known) for word in ("trian", "train", "retrian", "zzz", "")] == [
        "train",
        "train",
        "retrain",
        None,
        None,
    ]


def test_the_question_names_what_there_is_to_ask():
    assert meant("a") == " Did you mean a?"
    assert meant("a", "b") == " Did you mean a or b?"
    assert meant() == meant(None) == ""
