from ddattr.attribution.methods import METHODS, SUPPORT, TESTED, Family, keys, label_of, nameable, ordered, shown


def test_every_method_is_there_once_and_has_a_label_of_its_own():
    assert len({method.key for method in METHODS}) == len({method.label for method in METHODS}) == len(METHODS)


def test_what_is_tested_and_what_units_are_ranked_by_are_scored_by_attribute():
    scored = [method.key for method in METHODS if method.scored_by_attribute]
    assert {TESTED, SUPPORT, "jvp", "last_step"} <= set(scored)
    assert not set(scored) & {"pixel", "dtrak", "loss", "jvp_norm"}


def test_peers_that_are_tuned_are_those_that_need_halves():
    assert [method.key for method in METHODS if method.tuned] == ["unlearning", "trak", "dtrak"]
    assert keys(Family.PEER) == ["gradient_dot", "unlearning", "trak", "dtrak"]


def test_names_of_few_members_and_of_oracles_have_words():
    assert label_of("denoised_posterior@9") == "denoising, posterior, 9 members"
    assert label_of("dtrak_oracle") == "D-TRAK, oracle tuning"


def test_names_are_ordered_as_the_list_is_and_few_members_stand_behind_all():
    found = ordered(["pixel", "denoised_posterior@9", "dtrak_oracle", "dtrak", "denoised_posterior", "jvp"])
    assert found == ["jvp", "denoised_posterior", "denoised_posterior@9", "dtrak", "dtrak_oracle", "pixel"]


def test_a_figure_shows_eight_rows_at_most_and_leaving_each_out_whatever_a_table_has():
    names = [method.key for method in METHODS]
    names += [f"{method.key}@9" for method in METHODS if method.few] + [f"{key}_oracle" for key in keys(Family.PEER)]
    assert len(shown(names)) == 9
    assert len(shown([name for name in names if name != "leave_one_out"])) == 8
    assert {"denoised_posterior@9", "random"} < set(shown(names))


def test_a_config_names_scores_and_no_truth():
    assert {"dtrak", "denoised_posterior@equal_cost"} <= set(nameable())
    assert not {"ablation", "leave_one_out", "jvp_norm", "dtrak@equal_cost"} & set(nameable())
