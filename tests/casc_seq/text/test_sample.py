from collections import Counter

from casc_seq.text.sample import CLASSES, generate


def test_the_same_seed_gives_the_same_texts():
    assert generate(200, seed=3) == generate(200, seed=3)
    assert generate(200, seed=3) != generate(200, seed=4)
    assert generate(200)[0][:50] == generate(50)[0]


def test_all_texts_differ_so_that_no_split_leaks():
    texts, labels = generate(7200)
    assert len(texts) == len(labels) == len(set(texts)) == 7200


def test_classes_are_balanced():
    counts = Counter(generate(4000)[1])
    assert sorted(counts) == list(range(len(CLASSES)))
    assert all(abs(count - 1000) < 60 for count in counts.values())


def test_words_alone_do_not_tell_the_class():
    """Most words of a class occur in every other class too, as the topic of an aside."""
    texts, labels = generate(4000)
    words = [Counter() for _ in CLASSES]
    for text, label in zip(texts, labels, strict=True):
        words[label].update(text.lower().split())
    frequent = [{word for word, count in counter.items() if count >= 5} for counter in words]
    assert len(set.intersection(*frequent)) > 0.9 * len(set.union(*frequent))
