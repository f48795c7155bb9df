// Where a lesson has sliders, the site shows pictures made beforehand: moving a control chooses one of them.
for (const figure of document.querySelectorAll('figure.frames')) {
  const { controls, shown } = JSON.parse(figure.querySelector('script').textContent)
  const fields = [...figure.querySelectorAll('input, select')]
  const picture = figure.querySelector('img')
  const numbers = figure.querySelector('.frames-numbers')
  const refused = figure.querySelector('.frames-refused')

  const show = () => {
    fields.forEach((field, i) => {
      const text = controls[i].values[field.value]
      field.setAttribute('aria-valuetext', text)
      if (field.nextElementSibling) field.nextElementSibling.textContent = text
    })
    const view = shown[fields.map((field) => field.value).join(',')]
    refused.hidden = !view.refused
    refused.textContent = view.refused ?? ''
    picture.style.opacity = view.refused ? 0.25 : 1
    numbers.hidden = Boolean(view.refused)
    if (view.refused) return
    picture.src = figure.dataset.base + view.src
    picture.alt = view.alt
    numbers.innerHTML = view.numbers
  }
  fields.forEach((field) => field.addEventListener('input', show))
  show() // a browser may keep the place of a slider over a reload
}

// The first page: how much of the picture shows the map.
for (const frame of document.querySelectorAll('.reveal-frame')) {
  const slider = frame.querySelector('input')
  const place = () => frame.style.setProperty('--at', `${slider.value}%`)
  slider.addEventListener('input', place)
  place()
}
