// The card: what the chosen picture owes itself to, in words that the page was given. What draws and what is chosen is
// the explorer's.

function showCard() {
  const { card, name } = query();
  const { words, sure, pictures, amplified } = card;
  at("card").className = sure ? "sure" : "unsure";
  for (const [key, text] of Object.entries(words)) at(`card-${key}`).textContent = text;
  at("card-record").href = card.address;
  at("card-pictures").dataset.count = pictures.length;
  at("card-pictures").replaceChildren(...pictures.map((place) => trained(place, words.owed)));
  const base = pixels(set().factual, chosen.query);
  shade("card-picture", base, name);
  const moved = movedOf(card);
  at("card-moved").hidden = at("card-changed").hidden = !moved;
  if (!moved) return;
  shade("card-other", plus(base, moved), `${name}, ${words.without}`);
  const strong = moved.map((value) => value * amplified);
  shade("card-strong", strong, "what changes");
}

function movedOf({ unit, how, moved }) {
  if (how == null) return null;
  return unit == null ? pixels(moved, 0) : without(query()[how], unit);
}

function shade(id, values, words) {
  const canvas = make("canvas");
  paint(canvas, natural(values));
  at(id).src = canvas.toDataURL();
  at(id).alt = words;
}
