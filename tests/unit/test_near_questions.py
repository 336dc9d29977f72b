"""Questions whose vectors are nearly the same, and that ask for other things; and their paraphrases."""

from __future__ import annotations

import pytest

from lix_cache.matching.guards import check

pytestmark = pytest.mark.promise("right-answer")

_DENIED = [
    ("Are there hardly any bugs", "Are there any bugs"),
    ("Which plants need hardly any water", "Which plants need a lot of water"),
    ("My phone barely charges", "My phone charges"),
    ("I can scarcely hear the audio", "I can hear the audio"),
    ("foods that are seldom eaten raw", "foods that are eaten raw"),
    ("animals that rarely sleep", "animals that often sleep"),
    ("I almost never receive emails", "I receive emails"),
    ("Why do few people vote", "Why do a few people vote"),
    ("There is little hope for it", "There is a little hope for it"),
    ("Which features are no longer available", "Which features are available"),
    ("Has my order not yet shipped", "Has my order shipped"),
    ("is it not very safe there", "is it safe there"),
    ("which of them do not really work", "which of them work"),
    ("Don't cancel my order", "Cancel my order"),
    ("No refunds are given", "Refunds are given"),
    ("I can no longer cancel my order", "I can cancel my order"),
    ("Puedo cancelar mi pedido", "No puedo cancelar mi pedido"),
    ("Nunca recibo correos", "Recibo correos"),
    ("Apenas puedo dormir", "Puedo dormir"),
    ("Rara vez duermo bien", "Duermo bien"),
    ("Pocos paises votan asi", "Unos pocos paises votan asi"),
    ("Non posso cancellare il mio ordine", "Posso cancellare il mio ordine"),
    ("Não posso cancelar meu pedido", "Posso cancelar meu pedido"),
    ("Ich kann kaum schlafen", "Ich kann schlafen"),
    ("Welche Tiere schlafen selten", "Welche Tiere schlafen oft"),
    ("Warum wählen wenige Menschen", "Warum wählen viele Menschen"),
    ("Ich kann meine Bestellung nicht stornieren", "Ich kann meine Bestellung stornieren"),
    ("Je dors à peine la nuit", "Je dors la nuit"),
    ("Je ne peux pas annuler ma commande", "Je peux annuler ma commande"),
    ("L'application n'est plus disponible", "L'application est disponible"),
    ("Il n'y a guère de solutions", "Il y a des solutions"),
    ("Ik kan nauwelijks slapen", "Ik kan slapen"),
    ("Не могу отменить заказ", "Могу отменить заказ"),
    ("Я редко сплю ночью", "Я сплю ночью"),
    ("哪些动物很少睡觉", "哪些动物睡觉"),
]
_DENIED_ALIKE = [
    ("I barely slept last night", "I hardly slept last night"),
    ("I can hardly hear you", "I can't hear you"),
    ("hardly any bugs are left", "almost no bugs are left"),
    ("few people vote", "not many people vote"),
    ("Is my card rarely used", "is my card seldom used"),
    ("it is no longer available", "it isn't available any more"),
    ("the fees of the last few days", "the fees of the last days"),
    ("my little brother needs a card", "my brother needs a card"),
    ("No, I want to cancel my order", "I want to cancel my order"),
    ("I can't cancel my order", "cancelling my order fails"),
    ("No puedo cancelar mi pedido", "No me deja cancelar mi pedido"),
]


@pytest.mark.parametrize(("one", "other"), _DENIED)
def test_what_one_text_denies_or_nearly_denies_does_not_answer_the_other(one: str, other: str) -> None:
    found = check(one, other)
    assert found is not None
    assert found.guard in {"negation", "direction"}


@pytest.mark.parametrize(("one", "other"), _DENIED_ALIKE)
def test_denying_alike_and_some_few_pass(one: str, other: str) -> None:
    assert check(one, other) is None


_OPPOSED = [
    ("Take the pill twice a day", "Take the pill once a day"),
    ("Can I vote twice", "Can I vote thrice"),
    ("double the recipe", "triple the recipe"),
    ("a half portion of rice", "a double portion of rice"),
    ("a single room in Rome", "a double room in Rome"),
    ("biweekly pay", "weekly pay"),
    ("all of the files", "some of the files"),
    ("always lock the door", "sometimes lock the door"),
    ("Can either parent sign", "Can both parents sign"),
    ("Can everyone see my posts", "Can nobody see my posts"),
    ("Nehme ich die Tablette einmal am Tag", "Nehme ich die Tablette zweimal am Tag"),
    ("What is the difference between cats and dogs", "What is the similarity between cats and dogs"),
    ("How are cats and dogs alike", "How are cats and dogs different"),
    ("Is the fee the same as the tax", "Is the fee different from the tax"),
    ("dating advice for singles", "dating advice for couples"),
    ("What are the strengths of Python", "What are the weaknesses of Python"),
    ("the cause of inflation", "the effect of inflation"),
    ("What are the causes of inflation", "What are the consequences of inflation"),
    ("Is tea good for you", "Is tea bad for you"),
    ("Is it easy to learn Rust", "Is it difficult to learn Rust"),
    ("shoes for boys", "shoes for girls"),
    ("the ancient history of Greece", "the modern history of Greece"),
    ("How many wins has Spain", "How many defeats has Spain"),
    ("How do I tighten the screw", "How do I loosen the screw"),
    ("rights of a landlord", "rights of a tenant"),
    ("Is the field mandatory", "Is the field optional"),
    ("Unable to cancel my order", "Able to cancel my order"),
    ("Was sind die Stärken von Python", "Was sind die Schwächen von Python"),
    ("¿Cuál es la diferencia entre A y B?", "¿Cuál es la semejanza entre A y B?"),
    ("Quelle est la différence entre A et B", "Quelle est la ressemblance entre A et B"),
    ("Consejos para solteros", "Consejos para parejas"),
]
_NOT_OPPOSED = [
    ("what does smoking cause", "what effects has smoking"),
    ("is it good or bad", "is it bad or good"),
    ("I am unable to pay", "I am not able to pay"),
    ("not often on time", "rarely on time"),
    ("once I have paid, what happens", "what happens after I have paid"),
    ("what kind of card is it", "what sort of card is it"),
    ("do I always get a discount", "do I get a discount each time"),
    ("how do A and B differ", "what is the difference between A and B"),
]


@pytest.mark.parametrize(("one", "other"), _OPPOSED)
def test_an_opposite_does_not_answer_its_opposite(one: str, other: str) -> None:
    found = check(one, other)
    assert found is not None
    assert found.guard in {"direction", "class"}


@pytest.mark.parametrize(("one", "other"), _NOT_OPPOSED)
def test_words_that_are_no_opposites_there_pass(one: str, other: str) -> None:
    assert check(one, other) is None


_CASED = [
    ("Print 'Hello'", "Print 'hello'"),
    ('echo "ERROR" to the log', 'echo "error" to the log'),
    ("Gib „Hallo Welt“ aus", "Gib „hallo Welt“ aus"),
    ("Affiche « Oui »", "Affiche « oui »"),
    ("print “Yes” on the screen", "print 'yes' on the screen"),
    ("print 'Hello'", "print hello"),
    ('is "Foo Bar" a strong password', 'is "foo Bar" a strong password'),
    ("what does `SELECT Foo from bar` do", "what does `SELECT foo from bar` do"),
    ("rename the file to Readme.md", "rename the file to readme.md"),
    ("what does the variable userName hold", "what does the variable username hold"),
    ("what does toString return", "what does ToString return"),
    ("what does x = Foo mean", "what does x = foo mean"),
    ("what does grep -v Foo do", "what does grep -v foo do"),
]
_CASED_ALIKE = [
    ("Print 'Hello'", "print 'Hello'"),
    ("Explain `foo` in python", "explain `foo` in Python"),
    ("Run ls -l for me", "run ls -l for me"),
    ("what’s a “good” price", 'What\'s a "good" price'),
    ("is Amazon.com down", "is amazon.com down"),
    ("my new iPhone is slow", "my new iphone is slow"),
    ("is macOS free", "is macos free"),
]


@pytest.mark.parametrize(("one", "other"), _CASED)
def test_quotations_and_code_in_another_case_are_others(one: str, other: str) -> None:
    found = check(one, other)
    assert found is not None


@pytest.mark.parametrize(("one", "other"), _CASED_ALIKE)
def test_the_case_of_prose_around_them_is_a_slip(one: str, other: str) -> None:
    assert check(one, other) is None


_EXCHANGED = [
    ("Who beat Germany", "Who did Germany beat"),
    ("Who was beaten by Germany", "Who beat Germany"),
    ("Who was beaten by Germany", "Who was Germany beaten by"),
    ("By whom was Germany beaten", "Who did Germany beat"),
    ("Who beat Germany", "Which team did Germany beat"),
    ("Tell me who beat Germany", "Tell me who Germany beat"),
    ("Which team defeated Brazil in 2014", "Which team did Brazil defeat in 2014"),
    ("How many teams has Spain beaten", "How many teams have beaten Spain"),
    ("Who taught Aristotle", "Who did Aristotle teach"),
    ("Who succeeded Obama", "Whom did Obama succeed"),
    ("Who called me", "Who did I call"),
    ("Who sold the house to Tom", "Who did Tom sell the house to"),
    ("What causes stress", "What does stress cause"),
    ("What causes stress", "What is caused by stress"),
    ("What do lions hunt", "What hunts lions"),
    ("Which countries import oil from Russia", "Which countries does Russia import oil from"),
    ("Was Google bought by YouTube", "Did Google buy YouTube"),
    ("Does Anna love Tom", "Is Anna loved by Tom"),
    ("Can my landlord sue me", "Can I sue my landlord"),
    ("My landlord sued me", "I sued my landlord"),
    ("Can you call me", "Can I call you"),
    ("Does he owe her money", "Does she owe him money"),
    ("Is he older than her", "Is she older than him"),
    ("Does my bank owe me money", "Do I owe my bank money"),
    ("Who is older than Tom", "Who is Tom older than"),
    ("What is north of Spain", "What is Spain north of"),
    ("Which planets are bigger than Mars", "Which planets is Mars bigger than"),
    ("Why did the dog chase the cat", "Why was the dog chased by the cat"),
    ("Chi ha battuto la Germania", "Chi è stato battuto dalla Germania"),
    ("Wie versloeg Duitsland in de finale", "Wie werd in de finale door Duitsland verslagen"),
    ("Does A depend on B", "Does B depend on A"),
    ("Is A a subset of B", "Is B a subset of A"),
    ("Does B come before A", "Does A come before B"),
    ("convert A to B", "convert B to A"),
    ("convert a to b", "convert b to a"),
    ("Is plan A cheaper than plan B", "Is plan B cheaper than plan A"),
    ("Wer hat Deutschland besiegt", "Wen hat Deutschland besiegt"),
    ("Wer wurde von Deutschland besiegt", "Wer hat Deutschland besiegt"),
    ("Quién venció a Alemania", "A quién venció Alemania"),
    ("Quién fue vencido por Alemania", "Quién venció a Alemania"),
    ("Qui a battu l'Allemagne", "Qui l'Allemagne a-t-elle battu"),
    ("Qui a battu l'Allemagne", "Qui a été battu par l'Allemagne"),
    ("Кто победил Германию", "Кого победил Германию"),
]
_SAME_ROLES = [
    ("Who did Germany beat", "Which team did Germany beat"),
    ("Who did Germany beat", "Who was beaten by Germany"),
    ("Who beat Germany", "Which team beat Germany"),
    ("Who beat Germany", "Who was Germany beaten by"),
    ("Who beat Germany", "By whom was Germany beaten"),
    ("Who wrote Hamlet", "Hamlet was written by whom"),
    ("Did Google buy YouTube", "Was YouTube bought by Google"),
    ("What causes rain", "What is rain caused by"),
    ("Can my landlord evict me", "Can I be evicted by my landlord"),
    ("Why did the dog chase the cat", "Why was the cat chased by the dog"),
    ("How does inflation affect savings", "How are savings affected by inflation"),
    ("Who sings this song", "Who is singing this song"),
    ("Who is the president of France", "Who is France's president"),
    ("What happened to my card", "What did happen to my card"),
    ("Do you support all cards", "Can you tell me what cards you support"),
    ("how to change the oil in my car", "how do I do an oil change on my car"),
    ("What did they export to France in 2020", "What did they export in 2020 to France"),
    ("How do I get money by card", "How do I get money with my card"),
    ("do I have any alarms set for tomorrow", "what alarms have I set for tomorrow"),
    ("is A and B the same", "is B and A the same"),
    ("What is a subset", "what is A subset"),
    ("Wer hat Hamlet geschrieben", "Von wem wurde Hamlet geschrieben"),
    ("Wen hat Deutschland besiegt", "Wer wurde von Deutschland besiegt"),
    ("Qui a écrit Hamlet", "Par qui Hamlet a-t-il été écrit"),
    ("Quién escribió Hamlet", "Por quién fue escrito Hamlet"),
]


@pytest.mark.parametrize(("one", "other"), _EXCHANGED)
def test_who_does_it_to_whom_is_the_question(one: str, other: str) -> None:
    found = check(one, other)
    assert found is not None
    assert found.guard in {"order", "roles"}


@pytest.mark.parametrize(("one", "other"), _SAME_ROLES)
def test_active_and_passive_of_one_fact_pass(one: str, other: str) -> None:
    assert check(one, other) is None
